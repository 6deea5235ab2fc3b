"""Use of tenants in the gateway: counted as metrics and in the fleet's ledger, and shown to whoever may see it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError
from aloraserve.serving.admission import CallUsage
from aloraserve.tenants import Caller, Tenants
from aloraserve.usage.base import DAY_S, KEPT_DAYS, UsageFigures
from aloraserve.usage.redis import UsageLedger
from aloraserve_services.gateway.ledger_flush import LedgerFlush
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.routes import Routes
from aloraserve_services.gateway.tenant_turns import TenantTurns

ENDPOINT = "/v1/usage"
DEFAULT_DAYS = 30
MAX_WAITING = 8
"""Reports of a tenant that wait for the one that is being made."""
UNTENANTED = ""
"""The name under which callers without a tenant are summed."""


class UsageReporter:
    """See :class:`~aloraserve.serving.tenant_limits.UsageRecorder`, and the module's docstring.

    Args:
        ledger: of the fleet.
        metrics: of the gateway.
    """

    def __init__(self, ledger: UsageLedger, metrics: GatewayMetrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._flush = LedgerFlush(ledger, "usage", metrics.usage_failures.inc)

    def used(self, caller: Caller, usage: CallUsage, *, requests: int) -> None:
        """Count an answered call."""
        figures = UsageFigures(
            requests=requests,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            generated_tokens=usage.generated_tokens,
        )
        self._ledger.count(caller.tenant or UNTENANTED, figures, time.time())
        tenant = self._metrics.tenants.label(caller.tenant)
        self._metrics.tenant_requests.labels(tenant).inc(requests)
        kinds = (("cached", usage.cached_tokens), ("uncached", usage.uncached_tokens))
        for kind, tokens in (*kinds, ("generated", usage.generated_tokens)):
            self._metrics.tenant_tokens.labels(tenant, kind).inc(tokens)

    def refused(self, caller: Caller, limit: str) -> None:
        """Count a call that a limit refused."""
        self._ledger.count(caller.tenant or UNTENANTED, UsageFigures(refused=1), time.time())
        self._metrics.tenant_refusals.labels(self._metrics.tenants.label(caller.tenant), limit).inc()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write what was counted until the context ends."""
        async with self._flush.running():
            yield

    async def report(self, days: int, caller: Caller) -> dict[str, Any]:
        """Return the use of the last days, today included.

        Args:
            days: 1 to ``KEPT_DAYS``.
            caller: sees its own tenant's, an administrator everybody's.
        """
        today = int(time.time() // DAY_S)
        by_day: Mapping[int, Mapping[str, UsageFigures]] = {}
        ledger = "cannot be reached"
        only = None if caller.is_admin else caller.tenant or UNTENANTED
        if await self._flush.flush():
            with contextlib.suppress(DirectoryUnavailableError):
                by_day = await self._ledger.days(range(today - days + 1, today + 1), only)
                ledger = "ok"
        names = {name for used in by_day.values() for name in used} if only is None else {only}
        return {
            "days": days,
            "ledger": ledger,
            "tenants": [_tenant(name, by_day) for name in sorted(names)],
        }


class UsageRoutes:
    """``GET /v1/usage``.

    Args:
        tenants: know who may call.
        reporter: of the gateway.
    """

    def __init__(self, tenants: Tenants, reporter: UsageReporter) -> None:
        self._tenants = tenants
        self._reporter = reporter
        self._turns = TenantTurns("reports of usage", at_once=1, waiting=MAX_WAITING)

    def add_to(self, routes: Routes) -> None:
        """Add this route to an application's."""
        routes.add("GET", ENDPOINT, self.usage)

    async def usage(self, request: Request) -> Response:
        """Answer what the caller's tenant used, an administrator's question for all tenants."""
        caller = self._tenants.authenticate(request.headers.get("authorization"), None)
        days = _days(request.query_params.get("days"))
        async with self._turns.turn(caller.tenant):
            return JSONResponse(await self._reporter.report(days, caller))


def _days(text: str | None) -> int:
    if text is None:
        return DEFAULT_DAYS
    days = int(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0
    if not 1 <= days <= KEPT_DAYS:
        raise InvalidRequestError(f"days is {text[:20]!r}; 1 to {KEPT_DAYS} are accepted", param="days")
    return days


def _tenant(name: str, by_day: Mapping[int, Mapping[str, UsageFigures]]) -> dict[str, Any]:
    total, shown = UsageFigures(), []
    for number, used in by_day.items():
        if (figures := used.get(name)) is not None:
            total.add(figures)
            shown.append({"date": datetime.fromtimestamp(number * DAY_S, UTC).date().isoformat()} | _shown(figures))
    return {"tenant": name or None, "total": _shown(total), "by_day": shown}


def _shown(figures: UsageFigures) -> dict[str, int]:
    return {
        "requests": figures.requests,
        "refused": figures.refused,
        "prompt_tokens": figures.prompt_tokens,
        "cached_tokens": figures.cached_tokens,
        "uncached_tokens": figures.uncached_tokens,
        "generated_tokens": figures.generated_tokens,
    }
