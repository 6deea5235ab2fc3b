"""All policies by name: what the setting ``policy`` accepts, beside the path of one of the operator's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aloraserve.routing.base import Policy
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.expected_ttft import ExpectedTtft, ExpectedTtftTuning
from aloraserve.routing.least_loaded import LeastLoaded
from aloraserve.routing.longest_prefix import LongestPrefix
from aloraserve.routing.own_policy import is_path, load_policy
from aloraserve.routing.power_of_two import PowerOfTwo
from aloraserve.routing.round_robin import RoundRobin
from aloraserve.routing.session_hash import SessionHash


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """How a policy is made and what it needs.

    Args:
        make: from a cost model, a seed and tuning; each call gives a new one, without memory.
        asks_directory: whether it looks at loads or holdings; without, no directory is asked for it.
    """

    make: Callable[[CostModel, int, ExpectedTtftTuning], Policy]
    asks_directory: bool = True


POLICIES: Mapping[str, PolicyKind] = MappingProxyType(
    {
        ExpectedTtft.name: PolicyKind(lambda costs, _, tuning: ExpectedTtft(costs, tuning)),
        LongestPrefix.name: PolicyKind(lambda costs, *_: LongestPrefix(costs)),
        SessionHash.name: PolicyKind(lambda costs, *_: SessionHash(costs), asks_directory=False),
        LeastLoaded.name: PolicyKind(lambda costs, *_: LeastLoaded(costs)),
        PowerOfTwo.name: PolicyKind(lambda costs, seed, _: PowerOfTwo(costs, seed=seed)),
        RoundRobin.name: PolicyKind(lambda costs, *_: RoundRobin(costs), asks_directory=False),
    }
)


def check_policy(name: str) -> str:
    """Return ``name``.

    Raises:
        ValueError: no policy is called that; names all that are. Or a policy of one's own cannot be used, and why.
    """
    if is_path(name):
        load_policy(name, CostModel())
    elif name not in POLICIES:
        raise ValueError(f"one of {', '.join(POLICIES)} is needed, or module:attribute of your own")
    return name


def policy_kind(name: str) -> PolicyKind:
    """Return how a policy is made and what it needs.

    Args:
        name: a key of ``POLICIES``, or ``module:attribute`` of a policy of one's own, which always asks the directory.

    Raises:
        ValueError: no policy is called that.
    """
    check_policy(name)
    return POLICIES.get(name) or PolicyKind(lambda costs, *_: load_policy(name, costs))


def make_policy(
    name: str, *, costs: CostModel | None = None, seed: int = 0, tuning: ExpectedTtftTuning | None = None
) -> Policy:
    """Return a new policy.

    Args:
        name: what :func:`policy_kind` accepts.
        costs: the cost model, the default one if None.
        seed: for policies that draw.
        tuning: for ``expected-ttft``, the default ones if None.

    Raises:
        ValueError: no policy is called that.
    """
    return policy_kind(name).make(costs or CostModel(), seed, tuning or ExpectedTtftTuning())
