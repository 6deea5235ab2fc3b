"""Stand-ins for replicas of which the directory knows nothing, though they can be reached."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.cost_model import queued_tokens
from aloraserve.routing.in_flight import InFlight


def stand_in(replica: str, in_flight: InFlight, load: ReplicaLoad | None = None) -> Candidate:
    """Return a candidate for a replica that published nothing: a load, and this gateway's own calls on top.

    Args:
        replica: its id.
        in_flight: the gateway's own calls.
        load: what it is taken to have besides, nothing if None.
    """
    own = in_flight.load(replica)
    return Candidate(
        ReplicaState(replica, incarnation="", load=load or ReplicaLoad()), claimed_tokens=own.tokens, claims=own.calls
    )


def stand_ins(known: Collection[str], live: Sequence[Candidate], in_flight: InFlight) -> list[Candidate]:
    """Return candidates for the known replicas that are not ``live``, as busy as those are on average.

    A replica without a lease may be new, cut off from the directory, or hang. It must neither look idle in a loaded
    fleet nor stay idle for good; and each call that this gateway sends there makes it look busier.
    """
    present = {candidate.state.replica for candidate in live}
    mean = mean_load(live)
    return [stand_in(replica, in_flight, mean) for replica in dict.fromkeys(known) if replica not in present]


def mean_load(candidates: Sequence[Candidate]) -> ReplicaLoad:
    """Return the mean queue of ``candidates``, claims included, and the median engine's prefill model.

    Engines without a model count for the tokens of their queue, not for its time.
    """
    modelled = sorted(
        (candidate for candidate in candidates if candidate.state.load.prefill_s_per_token > 0),
        key=lambda candidate: candidate.state.load.prefill_s_per_token,
    )
    model = modelled[len(modelled) // 2].state.load if modelled else ReplicaLoad()
    return ReplicaLoad(
        running=round(fmean(candidate.state.load.running for candidate in candidates)),
        waiting=round(fmean(candidate.state.load.waiting + candidate.claims for candidate in candidates)),
        queued_prefill_tokens=round(fmean(map(queued_tokens, candidates))),
        prefill_tokens_per_s=model.prefill_tokens_per_s,
        queued_prefill_s=fmean(map(_queue_s, modelled)) if modelled else 0.0,
        prefill_fixed_s=model.prefill_fixed_s,
        prefill_s_per_token=model.prefill_s_per_token,
        prefill_s_per_square_token=model.prefill_s_per_square_token,
    )


def _queue_s(candidate: Candidate) -> float:
    load = candidate.state.load
    queue_s = load.queued_prefill_s or max(0, load.queued_prefill_tokens) * load.prefill_s_per_token
    return queue_s + candidate.claimed_tokens * load.prefill_s_per_token
