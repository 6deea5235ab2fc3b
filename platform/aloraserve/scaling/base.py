"""The contract of a scaler: from a reading of the fleet to how many replicas it is to have, and who leaves.

Invariants, for every scaler:

- ``decide`` is pure but for the scaler's own memory: it reads no clock, waits for nothing and raises nothing, whatever
  is in the reading. Times are the reader's own and do not go back; a reading whose time does is as old as the last.
- The target lies within the rules' bounds, always, and within the reading's where it has some.
- Victims are replicas of the reading that are not leaving yet, each once, those worth least first: as many as the
  target is below the running ones (those that are starting go before them), fewer where the directory does not know
  enough of them.
- Nothing that is remembered grows with the time or the traffic: what it keeps of gateways and replicas is bounded.

One scaler serves one fleet, from one thread. It forgets everything with its process, and then behaves as at a start: it
keeps what there is until it knows better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from aloraserve.directory.base import ReplicaState

MAX_GATEWAYS = 256
"""Demands of a reading that count."""


class Reason(StrEnum):
    """What a target comes from: the part of the load that asks for most, or what keeps the target from it."""

    UNKNOWN = "unknown"
    """Neither the directory nor Serve's counts say anything: what there is stays."""
    TTFT = "ttft"
    """Expected time to first token."""
    ITL = "itl"
    """Expected time between two tokens of an answer."""
    BACKLOG = "backlog"
    """Calls that wait already, with their answers."""
    KV_CACHE = "kv-cache"
    """Room for answers: in the KV cache, or among the requests that an engine runs at once."""
    HELD = "held"
    """Calls wait for a first replica."""
    COUNTS = "counts"
    """Ongoing requests, as Serve counts them: the directory is gone, or gateways do not report."""
    IDLE = "idle"
    """No call for so long that no replica is needed."""
    COOL_DOWN = "cool-down"
    """Another number would do, but not for long enough yet."""
    MIN_REPLICAS = "min-replicas"
    """The lower bound."""
    MAX_REPLICAS = "max-replicas"
    """The upper bound."""


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """The bounds, objectives and delays of a fleet; settings of the same names.

    Args:
        min_replicas: at least so many, 0 or more.
        max_replicas: at most so many, 1 or more, not below ``min_replicas``.
        ttft_objective_s: time to first token that nearly all calls are to have.
        itl_objective_s: time between two tokens of an answer that nearly all answers are to have; 0: none.
        scale_up_cooldown_s: least time between two increases.
        scale_down_cooldown_s: for so long, and since the last change, fewer replicas must have been enough.
        scaling_tolerance: share by which the load may grow without a replica that has just left being missed.
        idle_timeout_s: time without a call after which a fleet that may have no replica has none.
        replica_start_s: from a decision until the new replica takes calls; 0: as measured.
        max_requests: that one engine runs at once.
    """

    min_replicas: int = 1
    max_replicas: int = 4
    ttft_objective_s: float = 2.0
    itl_objective_s: float = 0.1
    scale_up_cooldown_s: float = 5.0
    scale_down_cooldown_s: float = 180.0
    scaling_tolerance: float = 0.1
    idle_timeout_s: float = 600.0
    replica_start_s: float = 0.0
    max_requests: int = 16


@dataclass(frozen=True, slots=True)
class Demand:
    """What one gateway has been asked for. Counts only grow; a gateway that starts again has another id.

    Args:
        gateway: its id, another one for each start.
        time_s: when it counted, on its own clock; differences mean something, the value does not.
        calls: calls that it placed so far, each once.
        uncached_tokens: prompt tokens of those that their replicas had to prefill, as expected when they were placed.
        prefill_s: how long that takes, as expected then.
        prefill_squares_s2: sum of the squares of those times.
        answer_tokens: tokens of answers that went out so far.
        answers: answers that have ended so far.
        waiting: calls now that wait in the gateway for room on a replica.
        held: of them, those that wait because there is no replica.
        unestimated: of ``calls``, those of whose prefill nothing was known: ``prefill_s`` is without them.
        ended_tokens: tokens of answers that have ended so far; 0: none has, or a gateway's version does not count them.
    """

    gateway: str
    time_s: float
    calls: int = 0
    uncached_tokens: int = 0
    prefill_s: float = 0.0
    prefill_squares_s2: float = 0.0
    answer_tokens: int = 0
    answers: int = 0
    waiting: int = 0
    held: int = 0
    unestimated: int = 0
    ended_tokens: int = 0


@dataclass(frozen=True, slots=True)
class FleetReading:
    """The fleet as it is now.

    Args:
        time_s: the reader's monotonic clock.
        running: replicas that take calls, without those that are leaving.
        starting: replicas that were asked for and do not take calls yet.
        replicas: states of the live ones, as the directory has them; those that are leaving say so.
        demands: what each gateway last said.
        is_known: whether the directory was read lately; if not, ``replicas`` and ``demands`` are empty.
        ongoing: requests in the fleet as Serve, or the replicas' own statistics, count them; None: unknown.
        least: replicas that there must be now, in place of the rules' minimum; None: theirs.
        most: replicas that there may be now, likewise.
        gateways: that run, as Serve has it: of fewer demands the load cannot be known. None: unknown.
    """

    time_s: float
    running: int
    starting: int = 0
    replicas: Sequence[ReplicaState] = ()
    demands: Sequence[Demand] = ()
    is_known: bool = True
    ongoing: int | None = None
    least: int | None = None
    most: int | None = None
    gateways: int | None = None

    @property
    def current(self) -> int:
        """Replicas that there are or will be if nothing is decided."""
        return self.running + self.starting

    @property
    def is_whole(self) -> bool:
        """Whether each running gateway has said what it is asked for."""
        return self.is_known and len(self.demands) >= min(self.gateways or 0, MAX_GATEWAYS)


@dataclass(frozen=True, slots=True)
class LoadEstimate:
    """The numbers behind a decision: rates of the whole fleet, times and shares per replica as the target has them.

    Args:
        calls_per_s: that arrive.
        prefill_s_per_s: seconds of uncached prefill that arrive per second: replicas that prefill keeps busy.
        decode_s_per_s: seconds that answers take of engines per second, beyond what a step costs anyway.
        backlog_s: seconds of one replica that the waiting calls take, with their answers.
        ttft_s: time to first token that nearly all calls are expected to have.
        itl_s: expected time between two tokens; 0: unknown.
        kv_usage: share of the KV cache that running answers use.
        start_s: how long a replica takes to start.
    """

    calls_per_s: float = 0.0
    prefill_s_per_s: float = 0.0
    decode_s_per_s: float = 0.0
    backlog_s: float = 0.0
    ttft_s: float = 0.0
    itl_s: float = 0.0
    kv_usage: float = 0.0
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """What is to be.

    Args:
        target: replicas that the fleet is to have.
        reason: see :class:`Reason`.
        needed: replicas that the load asks for, before bounds and cool-downs.
        estimate: the numbers behind it.
        victims: ids of the replicas that leave for it, in that order.
    """

    target: int
    reason: Reason
    needed: int
    estimate: LoadEstimate = field(default_factory=LoadEstimate)
    victims: tuple[str, ...] = ()


class Scaler(Protocol):
    """See the module's docstring."""

    def decide(self, reading: FleetReading) -> ScalingDecision:
        """Return how many replicas the fleet is to have.

        Args:
            reading: the fleet now, read once a second or so.
        """
        ...
