"""The routes for who runs the platform: replicas, receipts and savings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.adapters import AdapterRegistry
from aloraserve.directory.adapter_places import adapter_places, named
from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError, UnknownReceiptError
from aloraserve.tenants import Role, Tenants
from aloraserve_services.gateway.diagnosis import FleetDiagnosis
from aloraserve_services.gateway.receipts import FleetReceipts
from aloraserve_services.gateway.routes import PARAMETER, Routes, as_json, parameters
from aloraserve_services.gateway.savings import SavingsReporter
from aloraserve_services.gateway.scaling import ScalingReporter
from aloraserve_services.plan import FleetPlan

DEFAULT_LISTED = 20
MAX_LISTED = 1000


class AdminRoutes:
    """Says what the platform is doing.

    Args:
        plan: of the fleet.
        tenants: know who may ask.
        directories: of the fleet's cells.
        adapters: that are served now, and that are refused.
        replicas: returns ids of the replicas that can be reached.
        receipts: of all gateways.
        diagnosis: of all gateways.
        scaling: of the fleet.
        savings: of the fleet.
        targets: returns every process with metrics.
    """

    def __init__(
        self,
        plan: FleetPlan,
        tenants: Tenants,
        directories: Sequence[Directory],
        adapters: AdapterRegistry,
        *,
        replicas: Callable[[], Sequence[str]],
        receipts: FleetReceipts,
        diagnosis: FleetDiagnosis,
        scaling: ScalingReporter,
        savings: SavingsReporter,
        targets: Callable[[], Awaitable[list[dict[str, Any]]]],
    ) -> None:
        self._plan = plan
        self._tenants = tenants
        self._directories = directories
        self._adapters = adapters
        self._replicas = replicas
        self._receipts = receipts
        self._diagnosis = diagnosis
        self._scaling = scaling
        self._savings = savings
        self._targets = targets

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("GET", "/v1/replicas", self.replicas)
        routes.add("GET", "/v1/receipts", self.receipts)
        routes.add("GET", f"/v1/receipts/{PARAMETER}", self.receipt)
        routes.add("GET", "/v1/scaling", self.scaling)
        routes.add("GET", "/v1/diagnosis", self.diagnosis)
        routes.add("GET", "/v1/savings", self.savings)
        routes.add("GET", "/v1/metrics/targets", self.metrics_targets)

    async def replicas(self, request: Request) -> Response:
        """Say what each replica holds and does, for `aloraserve status`. It is all tenants': for administrators."""
        self._check(request)
        adapters = self._adapters.all()
        states, lost = await self._states()
        places = adapter_places([state for state, _ in states])
        names = {adapter.key: adapter.name for adapter in adapters}
        content = {
            "model": self._plan.served_name,
            "dtype": self._plan.dtype,
            "policy": self._plan.settings.policy,
            "block_tokens": self._plan.keyspace.block_tokens,
            "directory": _reachability(lost, len(self._directories)),
            "known": list(self._replicas()),
            "replicas": [asdict(named(state, names)) | {"cell": cell} for state, cell in states],
            "adapters": [
                {
                    "name": adapter.name,
                    "kind": adapter.kind,
                    "rank": adapter.rank,
                    "digest": adapter.digest,
                    "untrained": adapter.untrained,
                    "loaded": [place._asdict() for place in places.get(adapter.key, ())],
                }
                for adapter in adapters
            ],
            "refused": [asdict(adapter) for adapter in self._adapters.refused()],
        }
        return as_json(content)

    async def receipts(self, request: Request) -> Response:
        """List the last routing receipts, the newest first; for administrators."""
        self._check(request)
        return as_json({"receipts": await self._receipts.latest(_limit(request.query_params.get("limit")))})

    async def receipt(self, request: Request) -> Response:
        """Say how one request was routed; for administrators."""
        self._check(request)
        [request_id] = parameters(request)
        found = await self._receipts.get(request_id)
        if found is None:
            raise UnknownReceiptError(
                f"there is no receipt of request {request_id[:80]!r}; the last {self._plan.settings.receipts} that "
                "each gateway routed are kept"
            )
        return as_json(found)

    async def scaling(self, request: Request) -> Response:
        """Say how many replicas there are to be, why, and what changed that lately; for administrators."""
        self._check(request)
        return as_json(await self._scaling.report())

    async def diagnosis(self, request: Request) -> Response:
        """Say how far prompts were reused lately, and why no further; for administrators."""
        self._check(request)
        return as_json(await self._diagnosis.report(request.query_params.get("window")))

    async def savings(self, request: Request) -> Response:
        """Say what reuse across adapters saved lately, by adapter; for administrators: it is of all tenants' calls."""
        self._check(request)
        return as_json(await self._savings.report(request.query_params.get("window")))

    async def metrics_targets(self, request: Request) -> Response:
        """List every process that has metrics, as Prometheus' ``http_sd_configs`` reads it; for administrators."""
        self._check(request)
        return as_json(await self._targets())

    async def _states(self) -> tuple[list[tuple[ReplicaState, int]], int]:
        """Return every replica's state and cell, and how many cells' directories do not answer."""
        found = await asyncio.gather(*[directory.states() for directory in self._directories], return_exceptions=True)
        states: list[tuple[ReplicaState, int]] = []
        lost = 0
        for cell, of_cell in enumerate(found):
            if isinstance(of_cell, DirectoryUnavailableError):
                lost += 1
            elif isinstance(of_cell, BaseException):
                raise of_cell
            else:
                states += [(state, cell) for state in of_cell]
        return states, lost

    def _check(self, request: Request) -> None:
        self._tenants.authenticate(request.headers.get("authorization"), Role.ADMIN)


def _limit(text: str | None) -> int:
    """Return how many receipts are asked for."""
    if text is None:
        return DEFAULT_LISTED
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_LISTED):
        raise InvalidRequestError(f"limit is {text[:20]!r}; 1 to {MAX_LISTED} are accepted", param="limit")
    return int(text)


def _reachability(lost: int, cells: int) -> str:
    if not lost:
        return "ok"
    return "cannot be reached" if lost == cells else f"{lost} of {cells} cells cannot be reached"
