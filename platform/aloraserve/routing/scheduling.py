"""The order in which an engine begins its calls: least work first, and whoever waits moves up.

A call gets a number once, when its engine accepts it, and the engine begins the waiting call with the lowest one::

    expected prefill seconds + ageing * the time at which it was accepted

All that wait age alike, so the order among them never changes and no queue is sorted again. Only differences between
numbers of one engine count: its own clock is enough, however many gateways send to it.

Nobody starves: a call that takes ``p`` seconds to prefill is overtaken only by shorter ones accepted within the next
``p / ageing`` seconds. After that it waits for what is then before it, which no longer grows.

Source: vLLM's ``scheduling_policy="priority"`` (``v1/core/sched/request_queue.py``); shortest job first with linear
ageing is static because the waiting time's common part cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SchedulingPolicy = Literal["priority", "fcfs"]

AGEING = 0.05
MIN_AGEING, MAX_AGEING = 0.001, 1.0
PRIORITY_UNITS_PER_S = 1_000_000
"""Of vLLM's priority, an integer: microseconds of prefill."""
MAX_PREFILL_S = 86_400.0
"""Of one call. With ``MAX_AGEING`` and a clock below 292,000 years a number fits 64 bits, as vLLM's messages need."""


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How an engine orders the calls that wait in it.

    Args:
        policy: "priority" as in the module's docstring; "fcfs" begins calls in the order in which they came.
        ageing: seconds of prefill that a second of waiting makes up for, ``MIN_AGEING`` to ``MAX_AGEING``. A low value
            favours short calls, a high one bounds the wait of long ones.
    """

    policy: SchedulingPolicy = "priority"
    ageing: float = AGEING

    def __post_init__(self) -> None:
        """Raise ValueError for a policy that there is not, or a rate that makes no sense."""
        if self.policy not in get_args(SchedulingPolicy):
            raise ValueError(f"policy is {self.policy!r}; {' or '.join(get_args(SchedulingPolicy))} is accepted")
        if not MIN_AGEING <= self.ageing <= MAX_AGEING:
            raise ValueError(f"ageing is {self.ageing}; {MIN_AGEING:g} to {MAX_AGEING:g} are accepted")

    @property
    def published_ageing(self) -> float:
        """The rate as replicas publish it: 0 where calls begin in the order in which they came."""
        return self.ageing if self.policy == "priority" else 0.0

    def number_s(self, prefill_s: float, accepted_s: float) -> float:
        """Return a call's number, in seconds; 0 for all calls of an engine that takes them in their order.

        Args:
            prefill_s: expected for its uncached tokens, alone. A tenant's weight would divide it.
            accepted_s: when the engine accepted it, on the engine's clock.
        """
        if self.policy == "fcfs":
            return 0.0
        return min(max(prefill_s, 0.0), MAX_PREFILL_S) + self.ageing * accepted_s

    def priority(self, prefill_s: float, accepted_s: float) -> int:
        """Return the same as vLLM's ``priority``: an integer, the lowest first."""
        return round(self.number_s(prefill_s, accepted_s) * PRIORITY_UNITS_PER_S)
