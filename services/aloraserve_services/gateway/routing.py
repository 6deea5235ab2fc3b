"""The routing of one gateway: a router per cell of the fleet, and what the routers share."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence

from aloraserve.directory.base import Directory
from aloraserve.routing.cells import CellReplicas, CellRouter
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.in_flight import InFlight
from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.routing.policies import make_policy, policy_kind
from aloraserve.routing.router import CallRouter, Router
from aloraserve_services.plan import FleetPlan


class GatewayRouting:
    """See the module's docstring.

    Args:
        plan: of the fleet.
        directories: of its cells, in order.
        replicas: returns ids of the replicas that can be reached.

    Attributes:
        cells: which replicas belong to which cell.
        leaving: replicas that are to be stopped.
        router: of all calls.
    """

    def __init__(
        self, plan: FleetPlan, directories: Sequence[Directory], replicas: Callable[[], Sequence[str]]
    ) -> None:
        self._plan = plan
        self._names, self._in_flight = ConversationNames(), InFlight()
        self.leaving = LeavingReplicas()
        self.cells = CellReplicas(replicas, directories)
        self.router = self._router(directories, replicas)

    def _router(self, directories: Sequence[Directory], replicas: Callable[[], Sequence[str]]) -> CallRouter:
        if len(directories) == 1:
            return self._cell_router(directories[0], replicas)
        routers = [
            self._cell_router(directory, functools.partial(self.cells.of, cell))
            for cell, directory in enumerate(directories)
        ]
        spill_s = self._plan.settings.cell_spill_s
        return CellRouter(routers, self.cells, self._names, self._in_flight, spill_s=spill_s)

    def _cell_router(self, directory: Directory, replicas: Callable[[], Sequence[str]]) -> Router:
        settings = self._plan.settings
        policy = make_policy(
            settings.policy,
            costs=CostModel(tpot_objective_s=settings.tpot_objective_ms / 1000),
            # Gateways that draw should not all draw the same.
            seed=secrets.randbits(32),
        )
        return Router(
            directory,
            policy,
            self._plan.keyspace,
            budget_s=settings.lookup_budget_ms / 1000,
            known_replicas=replicas,
            use_directory=policy_kind(settings.policy).asks_directory,
            names=self._names,
            in_flight=self._in_flight,
            leaving=self.leaving,
        )
