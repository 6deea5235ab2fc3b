"""Tenants of a modelled fleet: who sends how much through which gateways, and the prefill that each got."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aloraserve.routing.fair_share import TenantShare
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.fleet import CallRecord
from aloraserve.simulation.trace import ID_TOKENS, TraceRow
from aloraserve.simulation.workload import Workload, WorkloadSettings


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """What a tenant sends: prompts of its own, nothing of which is cached.

    Args:
        name: of the tenant.
        weight: of the tenant.
        calls_per_s: Poisson arrivals.
        prompt_tokens: shortest and longest; lengths between them are as likely.
        ingress: gateways that its calls come through, in turn.
        start_s: when it begins.
        output_tokens: of each answer.
    """

    name: str
    weight: float
    calls_per_s: float
    prompt_tokens: tuple[int, int]
    ingress: tuple[int, ...] = (0,)
    start_s: float = 0.0
    output_tokens: int = 8


class TenantWorkload(Workload):
    """The calls of tenants, without evaluators.

    Args:
        loads: of the tenants.
        seconds: how long they send.
        shares: whether engines know whose calls they are.
        seed: of arrivals and lengths.
    """

    def __init__(self, loads: Sequence[TenantLoad], seconds: float, *, shares: bool = True, seed: int = 0) -> None:
        rows = [row for load in loads for row in _rows(load, seconds, seed)]
        settings = WorkloadSettings(evaluators=0, seed=seed)
        super().__init__(sorted(rows, key=lambda row: row.arrival_s), settings)
        self._loads = {load.name: load for load in loads}
        self._shares = shares

    def base_calls(self) -> Iterator[SimulatedCall]:
        """Yield the calls, by time."""
        for call in super().base_calls():
            load = self._loads[tenant_of(call.session)]
            if self._shares:
                call.share = TenantShare(load.name, load.weight)
            call.ingress = load.ingress[call.turn % len(load.ingress)]
            yield call


def tenant_of(session: str) -> str:
    """Return whose conversation it is."""
    return session.partition("/")[0]


def prefill_seconds(
    records: Sequence[CallRecord], model: PrefillModel, start_s: float, end_s: float
) -> dict[str, float]:
    """Return the seconds of prefill that each tenant got in a time, each call's counted alone at its first token."""
    got: dict[str, float] = {}
    for record in records:
        if start_s <= record.first_token_s < end_s:
            tenant = tenant_of(record.session)
            seconds = model.seconds(record.cached_tokens, record.prompt_tokens)
            got[tenant] = got.get(tenant, 0.0) + seconds
    return got


def _rows(load: TenantLoad, seconds: float, seed: int) -> Iterator[TraceRow]:
    chance = random.Random(f"{load.name} {seed}")  # noqa: S311
    now_s, number = load.start_s, 0
    while (now_s := now_s + chance.expovariate(load.calls_per_s)) < seconds:
        tokens = chance.randint(*load.prompt_tokens)
        first = chance.getrandbits(40)
        ids = tuple(range(first, first + -(-tokens // ID_TOKENS)))
        yield TraceRow(now_s, tokens, load.output_tokens, ids, f"{load.name}/{number}")
        number += 1
