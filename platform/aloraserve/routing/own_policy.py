"""A policy of the operator's own: the setting ``policy`` names it as ``module:attribute``."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import structlog

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision, Policy
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.rendezvous import Rendezvous

FALLBACK = "fallback"
MAX_PATH = 200
MAX_REASON = 200
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")

log = structlog.get_logger(__name__)


class OwnPolicy:
    """A policy from outside, kept to the contract of :class:`~aloraserve.routing.base.Policy`.

    A decision that fails, or that ranks a replica twice or one that is not a candidate, is replaced by a rendezvous
    hash: the call is still answered. The first failure of each kind is logged.

    Args:
        policy: what decides.
        costs: for the estimates of a replaced decision.
    """

    def __init__(self, policy: Policy, costs: CostModel) -> None:
        self.name = policy.name
        self._policy = policy
        self._substitute = Rendezvous(costs)
        self._logged: set[str] = set()

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Return the policy's decision, or a rendezvous hash if it is not one."""
        try:
            decision = self._policy.decide(call, candidates)
            _check(decision, candidates)
        except Exception as error:  # noqa: BLE001 - whatever somebody else's code raises
            return self._substituted(call, candidates, error)
        return replace(decision, policy=self.name, reason=_header_text(decision.reason))

    def _substituted(self, call: Call, candidates: Sequence[Candidate], error: Exception) -> Decision:
        kind = type(error).__name__
        if kind not in self._logged:
            self._logged.add(kind)
            log.error("the policy failed; calls are placed by hash", policy=self.name, exc_info=error)
        decision = self._substitute.decide(call, candidates)
        return replace(
            decision, policy=self.name, reason=_header_text(f"{self.name} failed: {kind}; {decision.reason}")
        )


def is_path(policy: str) -> bool:
    """Whether a setting names a policy by where it is, instead of by a name of the platform."""
    return ":" in policy


def load_policy(path: str, costs: CostModel) -> Policy:
    """Return a new policy of the operator's own.

    Args:
        path: ``module:attribute``; the attribute is called with ``costs`` and returns a policy.
        costs: the cost model.

    Raises:
        ValueError: it cannot be imported or made, or is not a policy.
    """
    made = _make(_imported(path), path, costs)
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == FALLBACK:
        raise ValueError(
            f"its name is {str(name)[:80]!r}; at most 40 lower-case letters, digits and '-' are accepted, "
            f"but not {FALLBACK!r}"
        )
    if not callable(getattr(made, "decide", None)):
        raise ValueError("it has no method decide(call, candidates)")
    return OwnPolicy(cast(Policy, made), costs)


def _imported(path: str) -> Callable[[CostModel], object]:
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        raise ValueError(f"module:attribute is needed, at most {MAX_PATH} characters")
    module, _, attribute = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ValueError(f"it cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"it is of type {type(found).__name__}; a callable that takes the cost model is needed")
    return cast("Callable[[CostModel], object]", found)


def _make(factory: Callable[[CostModel], object], path: str, costs: CostModel) -> object:
    try:
        return factory(costs)
    except Exception as error:
        raise ValueError(f"{path} cannot be called with a cost model: {type(error).__name__}: {error}") from error


def _check(decision: Decision, candidates: Sequence[Candidate]) -> None:
    """Raise ValueError if a decision ranks anything but candidates, each once, or none of several."""
    known = {candidate.state.replica for candidate in candidates}
    ranked = Counter(decision.rank)
    if set(ranked) - known or any(times > 1 for times in ranked.values()):
        raise ValueError("the decision ranks a replica twice, or one that is not a candidate")
    if known and not ranked:
        raise ValueError("the decision ranks no replica")


def _header_text(reason: str) -> str:
    """Return what a header can hold: printable ASCII, bounded."""
    return "".join(char if " " <= char <= "~" else "?" for char in reason[:MAX_REASON])
