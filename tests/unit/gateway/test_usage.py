"""What tenants used: counted in the gateway, added up over gateways, shown to whoever may see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import SecretStr

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.admission import CallUsage
from aloraserve.tenants import Caller, Role
from aloraserve.usage.base import DAY_S, KEPT_DAYS, UsageFigures
from aloraserve.usage.redis import UsageLedger
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.usage import MAX_WAITING, UsageReporter, _days

ADMIN = Caller(roles=frozenset({Role.ADMIN}))
CALL = CallUsage(100, 60, 7)


@pytest.fixture
async def ledgers(redis_server: Any, request: pytest.FixtureRequest) -> AsyncIterator[list[UsageLedger]]:
    """Two gateways' ledgers of one fleet."""
    made = [UsageLedger.from_url(redis_server.url, namespace=request.node.name, timeout_s=5.0) for _ in range(2)]
    yield made
    for ledger in made:
        await ledger.close()


def reporter(ledger: UsageLedger) -> UsageReporter:
    return UsageReporter(ledger, GatewayMetrics(CollectorRegistry()))


async def test_use_adds_up_over_gateways_and_a_tenant_sees_its_own(ledgers: list[UsageLedger]) -> None:
    one, other = map(reporter, ledgers)
    one.used(Caller("acme"), CALL, requests=1)
    other.used(Caller("acme"), CALL, requests=0)
    other.refused(Caller("acme"), "tokens")
    other.used(Caller("globex"), CALL, requests=1)
    await ledgers[1].flush()
    report = await one.report(1, Caller("acme"))
    [tenant] = report["tenants"]
    assert (report["ledger"], tenant["tenant"]) == ("ok", "acme")
    figures = {
        "requests": 1,
        "refused": 1,
        "prompt_tokens": 200,
        "cached_tokens": 120,
        "uncached_tokens": 80,
        "generated_tokens": 14,
    }
    assert tenant["total"] == figures
    assert tenant["by_day"] == [{"date": time.strftime("%Y-%m-%d", time.gmtime())} | figures]
    everybody = await one.report(1, ADMIN)
    assert [tenant["tenant"] for tenant in everybody["tenants"]] == ["acme", "globex"]


async def test_days_are_kept_apart_and_summed(ledgers: list[UsageLedger]) -> None:
    ledger = ledgers[0]
    for days_ago in (0, 1, 3):
        ledger.count("acme", UsageFigures(requests=1), time.time() - days_ago * DAY_S)
    one = reporter(ledger)
    for days, requests in ((1, 1), (3, 2), (4, 3)):
        [tenant] = (await one.report(days, ADMIN))["tenants"]
        assert (tenant["total"]["requests"], len(tenant["by_day"])) == (requests, requests)


async def test_many_days_are_few_writes_of_a_tenant_s_own_figures(
    ledgers: list[UsageLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers[0]
    for tenant in ("acme", *map(str, range(50))):
        ledger.count(tenant, UsageFigures(requests=1, prompt_tokens=3), time.time() - 2 * DAY_S)
    await ledger.flush()
    replies: list[Any] = []
    run_all = ledger._scripts.run_all

    async def noted(calls: Any) -> Any:
        replies.append(await run_all(calls))
        return replies[-1]

    monkeypatch.setattr(ledger._scripts, "run_all", noted)
    [tenant] = (await reporter(ledger).report(KEPT_DAYS, Caller("acme")))["tenants"]
    assert (tenant["total"]["prompt_tokens"], len(tenant["by_day"])) == (3, 1)
    assert len(replies) == KEPT_DAYS / 16
    assert sum(len(reply) for some in replies for reply in some) == 4, "two figures, each with its name"


async def test_a_server_that_is_too_slow_for_all_days_is_not_waited_for(
    ledgers: list[UsageLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledgers[0]
    run_all = ledger._scripts.run_all

    async def slow(calls: Any) -> Any:
        await asyncio.sleep(0.03)
        return await run_all(calls)

    monkeypatch.setattr(ledger._scripts, "run_all", slow)
    monkeypatch.setattr(ledger, "_patience_s", 0.2)
    assert (await reporter(ledger).report(KEPT_DAYS, ADMIN))["ledger"] == "cannot be reached"


async def test_a_tenant_has_one_report_made_at_a_time(
    open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait are bounded, and no other tenant waits for them."""
    gate, made = asyncio.Event(), []

    async def report(self: Any, days: int, caller: Caller) -> dict[str, Any]:
        made.append(caller.tenant)
        if caller.tenant == "acme":
            await gate.wait()
        return {}

    monkeypatch.setattr(UsageReporter, "report", report)
    keys = {name: SecretStr(f"{name}-key-0123456789") for name in ("acme", "globex")}
    app = open_gateway(api_keys=keys).http_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:

        async def ask(tenant: str) -> int:
            headers = {"Authorization": f"Bearer {tenant}-key-0123456789"}
            return (await client.get("/v1/usage?days=400", headers=headers)).status_code

        asked = [asyncio.create_task(ask("acme")) for _ in range(MAX_WAITING + 3)]
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in refused} == {429}
        assert await ask("globex") == 200
        assert made == ["acme", "globex"]
        gate.set()
        assert sorted([await task for task in asked]) == [200] * (MAX_WAITING + 1) + [429] * 2


async def test_a_tenant_that_used_nothing_gets_zeros(ledgers: list[UsageLedger]) -> None:
    [tenant] = (await reporter(ledgers[0]).report(1, Caller("new")))["tenants"]
    assert tenant["total"]["requests"] == 0
    assert tenant["by_day"] == []


async def test_while_the_ledger_is_gone_a_report_says_so() -> None:
    ledger = UsageLedger.from_url("redis://127.0.0.1:1", namespace="gone", timeout_s=0.1)
    report = await reporter(ledger).report(1, Caller("acme"))
    assert report["ledger"] == "cannot be reached"
    assert report["tenants"][0]["total"]["requests"] == 0
    await ledger.close()


async def test_metrics_count_by_tenant(ledgers: list[UsageLedger]) -> None:
    metrics = GatewayMetrics(CollectorRegistry())
    one = UsageReporter(ledgers[0], metrics)
    one.used(Caller("acme"), CALL, requests=1)
    one.refused(Caller("acme"), "concurrency")
    shown = generate_latest(metrics.registry).decode()
    assert 'aloraserve_tenant_requests_total{tenant="acme"} 1.0' in shown
    assert 'aloraserve_tenant_tokens_total{kind="uncached",tenant="acme"} 40.0' in shown
    assert 'aloraserve_tenant_refusals_total{limit="concurrency",tenant="acme"} 1.0' in shown


@pytest.mark.parametrize("text", ["0", "-1", "401", "1.5", "x", "", "٣", "9" * 30])
def test_days_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"1 to {KEPT_DAYS} are accepted"):
        _days(text)


def test_days_may_be_left_out() -> None:
    assert (_days(None), _days("400")) == (30, 400)
