"""Two tenants on one replica of a real engine: each finds its own conversations again, and never the other's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

BASE = "SmolLM2-135M-Instruct"
KEYS = {"acme": "acme-key-0123456789", "other": "other-key-0123456789", "limited": "limited-key-0123456789"}
ADMIN = "root-key-0123456789"
LIMITS = {"limited": {"requests_per_minute": 1, "tokens_per_minute": 100_000, "weight": 2}}
MESSAGES = [{"role": "user", "content": "Which ferry calls at the old pier on a Sunday? " * 12}]
SYSTEM = {"role": "system", "content": "You answer for the harbour office, politely and in one sentence. " * 12}

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared(start: Callable[..., Any]) -> Iterator[Any]:
    """A platform of two tenants with one replica, beside the one that other tests use."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ALORASERVE_API_KEYS", json.dumps(KEYS))
        environment.setenv("ALORASERVE_ADMIN_KEYS", json.dumps({"root": ADMIN}))
        environment.setenv("ALORASERVE_LIMITS", json.dumps(LIMITS))
        with start("--replicas", "1", own_state=True) as running:
            yield running


def as_tenant(platform: Any, name: str) -> Any:
    return dataclasses.replace(platform, api_key=KEYS[name])


def administer(platform: Any, method: str, path: str, body: Any = None) -> Any:
    answer = platform.http.request(method, path, json=body, headers={"Authorization": f"Bearer {ADMIN}"})
    assert answer.is_success, answer.text
    return answer.json()


def test_without_a_key_nothing_is_disclosed(shared: Any) -> None:
    for path in ("/v1/models", "/v1/replicas"):
        assert shared.http.get(path).status_code == 401
    with pytest.raises(openai.AuthenticationError) as refused:
        shared.chat(BASE, MESSAGES)
    assert refused.value.code == "invalid_api_key"


def test_a_tenant_reuses_its_own_blocks_and_no_other_s(shared: Any) -> None:
    """One replica, so that a stranger's call meets the blocks; the gateway's keys are those of the engine's events."""
    acme, other = as_tenant(shared, "acme"), as_tenant(shared, "other")
    assert acme.chat(BASE, MESSAGES).cached_tokens == 0
    assert acme.chat("safety", MESSAGES).cached_tokens >= 128
    stranger = other.chat("safety", MESSAGES)
    assert (stranger.cached_tokens, stranger.reason) == (0, "")

    def receipt_shows_it() -> bool:
        receipts = administer(shared, "GET", "/v1/receipts?limit=1")["receipts"]
        return acme.chat("safety", MESSAGES).cached_tokens >= 128 and "holds" in receipts[0]["reason"]

    shared.wait_until(receipt_shows_it, 120, "the tenant's own blocks in the directory")


def test_tenants_share_exactly_the_blocks_of_a_shared_prefix(shared: Any) -> None:
    acme, other = as_tenant(shared, "acme"), as_tenant(shared, "other")
    unshared = [other.chat(BASE, [SYSTEM, *MESSAGES]), other.chat("safety", [SYSTEM, *MESSAGES])]
    prefix = administer(shared, "PUT", "/v1/admin/shared-prefixes/office", {"messages": [SYSTEM]})
    assert 128 <= prefix["shared_tokens"] <= prefix["tokens"] < prefix["shared_tokens"] + 32
    first = acme.chat(BASE, [SYSTEM, *MESSAGES])
    assert first.cached_tokens == 0, "what was computed before belongs to a tenant"
    second = [other.chat(BASE, [SYSTEM, *MESSAGES]), other.chat("safety", [SYSTEM, *MESSAGES])]
    assert second[0].cached_tokens == prefix["shared_tokens"]
    assert [reply.text for reply in second] == [reply.text for reply in unshared]
    administer(shared, "DELETE", "/v1/admin/shared-prefixes/office")


def test_no_process_of_an_engine_has_a_caller_s_key(shared: Any) -> None:
    """Neither in its environment nor in its command; of Redis' and Ray's none either."""
    secrets = [key.encode() for key in (*KEYS.values(), ADMIN)]
    platform = psutil.Process(json.loads((shared.state_dir / "run.json").read_text())["pid"])
    started = platform.children(recursive=True)
    assert any("ServeReplica" in " ".join(process.cmdline()) for process in started)
    for process in started:
        shown = Path(f"/proc/{process.pid}/environ").read_bytes() + " ".join(process.cmdline()).encode()
        assert not [key for key in secrets if key in shown], process.name()


def test_a_tenant_over_its_limit_is_refused_and_sees_what_it_used(shared: Any) -> None:
    limited = as_tenant(shared, "limited")
    asked: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "max_tokens": 2}
    answered = limited.openai.chat.completions.with_raw_response.create(**asked)
    assert answered.headers["x-ratelimit-limit-requests"] == "1"
    assert answered.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(answered.headers["x-ratelimit-remaining-tokens"]) < 100_000
    with pytest.raises(openai.RateLimitError) as refused:
        limited.openai.chat.completions.create(**asked)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60

    def use() -> dict[str, Any]:
        headers = {"authorization": f"Bearer {limited.api_key}"}
        [tenant] = shared.http.get("/v1/usage?days=2", headers=headers).json()["tenants"]
        assert tenant["tenant"] == "limited"
        return dict(tenant["total"])

    shared.wait_until(lambda: use()["requests"] == 1, 120, "the call in the ledger")
    assert use() | {"cached_tokens": 0, "uncached_tokens": 0} == {
        "requests": 1,
        "refused": 1,
        "prompt_tokens": answered.parse().usage.prompt_tokens,
        "cached_tokens": 0,
        "uncached_tokens": 0,
        "generated_tokens": 2,
    }
