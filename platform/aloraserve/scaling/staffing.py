"""How many replicas a load needs so that nearly all calls meet their objectives: the model behind a target.

An engine's steps compute prompts and answers together. Of each second, prompts that arrive take ``p`` and the answers'
tokens ``c``, as long as the steps' fixed part is not counted; what is left over is steps' fixed parts ``f``. So an
answer gets a token every ``f / (1 - p - c)`` seconds.

What arrives within ``SPELL_S`` is more than the mean by chance: by the root of the sum of the squares of the calls'
work (the square root of offices' staffing: Halfin and Whitt, 1981). Twice that has to fit, too. Prompts wait in line
before as many engines as there are: the mean wait is Sakasegawa's for M/G/n (Sakasegawa, "An approximation formula
L_q = a * rho^b / (1 - rho)", 1977).

An engine runs a limited number of answers at once: by its requests, and by its KV cache. How many places are needed
does not show in what runs, which a full fleet limits, but in what arrives: calls per second, times how long each keeps
its place (Little, 1961).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from aloraserve.scaling.base import Reason

NEARLY_ALL = 3.0
"""Times the mean is what 95 of 100 do not exceed, of times that are distributed exponentially."""
MOST_BUSY = 0.95
SURE = 2.0
"""Standard deviations above the mean that have to fit."""
SPELL_S = 10.0
"""Over which queues and answers even out what arrives."""
MOST_KV_USAGE = 0.9
WORK_OFF_STARTS = 4.0
"""Start-ups in which calls that wait for a place get one: what one start-up leaves behind makes a quarter more."""
LEAST_WAIT_SHARE = 0.25
"""Of the objective, where the calls' own prefill takes nearly all of it: more replicas make no prefill shorter."""


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """What a fleet has to do, whatever the number of its replicas.

    Args:
        calls_per_s: that arrive.
        prefill_s_per_s: seconds of prefill per second.
        decode_s_per_s: seconds that the tokens of answers take per second, without the steps' fixed parts.
        call_prefill_s: mean prefill of a call.
        call_squares_s2: mean of its square.
        step_s: fixed part of a step with answers; 0: unknown.
        backlog_s: work that waits, prefill and answers' tokens.
        late_backlog_s: what of it will wait when a replica that is asked for now is there.
        start_s: when that is.
        used_replicas: replicas whose KV cache, or whose requests, running answers fill.
        call_answer_tokens: mean length of an answer.
        call_share: share of a replica's requests, or of its KV cache, that a call fills while it runs.
        waiting: calls that have no place yet.
        served_s: seconds that replicas which run or start now will have run after ``start_s``.
    """

    calls_per_s: float = 0.0
    prefill_s_per_s: float = 0.0
    decode_s_per_s: float = 0.0
    call_prefill_s: float = 0.0
    call_squares_s2: float = 0.0
    step_s: float = 0.0
    backlog_s: float = 0.0
    late_backlog_s: float = 0.0
    start_s: float = 0.0
    used_replicas: float = 0.0
    call_answer_tokens: float = 0.0
    call_share: float = 0.0
    waiting: float = 0.0
    served_s: float = 0.0

    @property
    def busy(self) -> float:
        """Engines that the load keeps busy."""
        return self.prefill_s_per_s + self.decode_s_per_s

    @property
    def busy_at_times(self) -> float:
        """Engines that it keeps busy in a spell in which chance brings more than the mean."""
        if self.calls_per_s <= 0:
            return self.busy
        # Of answers whose lengths are distributed exponentially the mean square is twice the square of the mean.
        decode_s = self.decode_s_per_s / self.calls_per_s
        squares_s2 = self.call_squares_s2 + 2 * decode_s * (self.call_prefill_s + decode_s)
        return self.busy + SURE * math.sqrt(self.calls_per_s * squares_s2 / SPELL_S)

    def wait_s(self, replicas: int) -> float:
        """Return the mean time that a call waits for an engine; infinite if there is too much to do."""
        share = _share(self.busy, replicas)
        if share >= 1:
            return math.inf
        if share <= 0 or self.call_prefill_s <= 0:
            return 0.0
        # Of a prefill so short that its square is 0, too.
        ahead_s = max(self.call_squares_s2 / self.call_prefill_s, self.call_prefill_s) / 2
        queue = math.pow(share, math.sqrt(2 * (replicas + 1)) - 1) / (replicas * (1 - share))
        return ahead_s * queue

    def ttft_s(self, replicas: int) -> float:
        """Return the time to first token that nearly all calls have, behind those that wait now."""
        if self.places(replicas) > replicas:
            return math.inf
        behind_s = self.waiting_s(replicas) / replicas if replicas > 0 else 0.0
        return NEARLY_ALL * (self.call_prefill_s + self.wait_s(replicas)) + self.step_s + behind_s

    def stay_s(self, replicas: int) -> float:
        """Return how long a call keeps its place."""
        if self.call_answer_tokens <= 0 or self.step_s <= 0:
            return self.call_prefill_s
        share = _share(self.busy, replicas)
        return self.call_prefill_s + self.call_answer_tokens * self.step_s / (1 - share) if share < 1 else math.inf

    def places(self, replicas: int, *, deviations: float = 0.0) -> float:
        """Return the replicas that running answers fill, with so many standard deviations more than the mean."""
        if self.calls_per_s <= 0 or self.call_share <= 0:
            return 0.0
        answers = self.calls_per_s * self.stay_s(replicas)
        return (answers + deviations * math.sqrt(answers)) * self.call_share

    def waiting_s(self, replicas: int) -> float:
        """Return the seconds of one replica that calls which wait take: of its time, or of its places."""
        if self.waiting <= 0 or self.call_share <= 0:
            return self.backlog_s
        return max(self.backlog_s, self.waiting * self.stay_s(replicas) * self.call_share)

    def itl_s(self, replicas: int) -> float:
        """Return the time between two tokens that nearly all answers have; 0 if that is unknown."""
        share = _share(self.busy_at_times, replicas)
        return self.step_s / (1 - share) if share < 1 else math.inf

    def grown(self, share: float) -> FleetLoad:
        """Return the load with more of everything that arrives."""
        grown = ("calls_per_s", "prefill_s_per_s", "decode_s_per_s", "used_replicas")
        return replace(self, **{name: getattr(self, name) * (1 + share) for name in grown})


def needed(load: FleetLoad, *, ttft_objective_s: float, itl_objective_s: float, most: int) -> tuple[int, Reason]:
    """Return the fewest replicas that the load needs, at most ``most``, and what needs them.

    Args:
        load: of the fleet.
        ttft_objective_s: time to first token for nearly all calls.
        itl_objective_s: time between two tokens of an answer; 0: any.
        most: more than so many are of no interest.
    """
    asked = {
        Reason.TTFT: _fewest(most, lambda count: _meets_ttft(load, count, ttft_objective_s)),
        Reason.ITL: _fewest(most, lambda count: _meets_itl(load, count, itl_objective_s)),
        Reason.BACKLOG: max(
            _for_backlog(load, ttft_objective_s),
            _fewest(most, lambda count: _works_off(load, count, ttft_objective_s)),
        ),
        Reason.KV_CACHE: max(
            _least(load.used_replicas), _fewest(most, lambda count: load.places(count, deviations=SURE) <= count)
        ),
    }
    reason = max(asked, key=lambda reason: asked[reason])
    return min(asked[reason], most), reason


def _share(busy: float, replicas: int) -> float:
    """Return the share of its time that each of so many replicas is busy; above 1 there is too much to do."""
    if busy <= 0:
        return 0.0
    return busy / replicas if replicas > 0 else math.inf


def _meets_ttft(load: FleetLoad, replicas: int, objective_s: float) -> bool:
    if load.busy_at_times > MOST_BUSY * replicas:
        return False
    wait_s = max(objective_s - NEARLY_ALL * load.call_prefill_s - load.step_s, LEAST_WAIT_SHARE * objective_s)
    return NEARLY_ALL * load.wait_s(replicas) <= wait_s


def _meets_itl(load: FleetLoad, replicas: int, objective_s: float) -> bool:
    if objective_s <= load.step_s:
        # None is set, or any number of replicas would miss it.
        return True
    return load.itl_s(replicas) <= objective_s


def _for_backlog(load: FleetLoad, objective_s: float) -> int:
    """Return the fewest that work off, in as long as they take to start, what will be queued by then."""
    if load.late_backlog_s <= 0:
        return 0
    return _least(load.busy + load.late_backlog_s / max(load.start_s, objective_s))


def _works_off(load: FleetLoad, replicas: int, objective_s: float) -> bool:
    """Return whether calls that wait for a place get one within some start-ups."""
    if load.waiting <= 0 or load.call_share <= 0:
        return True
    places = load.places(replicas)
    late_s = load.waiting * load.stay_s(replicas) * load.call_share + places * load.start_s - load.served_s
    return places + max(late_s, 0.0) / (WORK_OFF_STARTS * max(load.start_s, objective_s)) <= replicas


def _fewest(most: int, is_enough: Callable[[int], bool]) -> int:
    """Return the fewest that are enough, ``most`` if none of those below it are; more are never worse."""
    return bisect.bisect_left(range(most), True, key=is_enough)


def _least(replicas: float) -> int:
    return math.ceil(replicas - 1e-9)
