"""Memory of the last lookup, for decisions that have to do without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from aloraserve.directory.base import LEASE_TTL_S, Candidate, ReplicaLoad
from aloraserve.routing.fleet_mean import stand_in
from aloraserve.routing.in_flight import InFlight


class LastSeen:
    """The replicas as the directory showed them last, and what this gateway knows of them since. For one event loop.

    Loads are those last seen, with the calls that began here since; once they are too old to mean anything, they are
    the gateway's own calls and nothing else.

    Args:
        in_flight: the gateway's own calls.
    """

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._found: Sequence[Candidate] = ()
        self._at = 0.0

    def note(self, found: Sequence[Candidate], now: float) -> None:
        """Remember what a lookup found."""
        self._found, self._at = found, now

    def candidates(self, known: Iterable[str], now: float) -> list[Candidate]:
        """Return candidates without holdings: the known replicas, or those last seen if none are known."""
        seen = self._current() if now - self._at <= LEASE_TTL_S else self._own()
        candidates = [seen.get(replica) or stand_in(replica, self._in_flight) for replica in dict.fromkeys(known)]
        return candidates or list(seen.values())

    def _current(self) -> dict[str, Candidate]:
        begun = self._in_flight.begun_since(self._at)
        found = {}
        for candidate in self._found:
            replica = candidate.state.replica
            calls, tokens = begun.get(replica, (0, 0))
            found[replica] = Candidate(
                candidate.state, claimed_tokens=candidate.claimed_tokens + tokens, claims=candidate.claims + calls
            )
        return found

    def _own(self) -> dict[str, Candidate]:
        found = {}
        for candidate in self._found:
            state = candidate.state
            own = self._in_flight.load(state.replica)
            found[state.replica] = Candidate(
                replace(state, load=_rates_of(state.load)), claimed_tokens=own.tokens, claims=own.calls
            )
        return found


def _rates_of(load: ReplicaLoad) -> ReplicaLoad:
    """Return what of a load does not age: how fast the engine is."""
    return ReplicaLoad(
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        prefill_fixed_s=load.prefill_fixed_s,
        prefill_s_per_token=load.prefill_s_per_token,
        prefill_s_per_square_token=load.prefill_s_per_square_token,
        prefill_samples=load.prefill_samples,
    )
