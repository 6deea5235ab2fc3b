"""A policy of the operator's own: found by its path, refused with a reason, kept to the contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.own_policy import MAX_REASON, OwnPolicy
from aloraserve.routing.policies import check_policy, make_policy, policy_kind

CALL = Call(prompt_tokens=64, block_tokens=16, keys=KeySpace("model", "tokenizer", 16).keys([7] * 64))
FLEET = [Candidate(ReplicaState(name, "1")) for name in "abc"]

MODULE = """
from aloraserve.routing.base import Decision

class LastFirst:
    name = "last-first"

    def __init__(self, costs):
        self.costs = costs

    def decide(self, call, candidates):
        ordered = sorted(candidates, key=lambda candidate: candidate.state.replica, reverse=True)
        return Decision("whatever", "by name", tuple(self.costs.estimate(call, one) for one in ordered))

class Shouting(LastFirst):
    name = "LAST FIRST"

class Fallback(LastFirst):
    name = "fallback"

class Nameless:
    def __init__(self, costs): pass

class Mute:
    name = "mute"
    def __init__(self, costs): pass

class Needy(LastFirst):
    def __init__(self, costs, more): pass

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a module on the path."""
    name = f"own_policies_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_policy_of_one_s_own_orders_the_replicas(module: str) -> None:
    path = f"{module}:LastFirst"
    assert check_policy(path) == path
    assert policy_kind(path).asks_directory
    decision = make_policy(path).decide(CALL, FLEET)
    assert (decision.policy, decision.reason, decision.rank) == ("last-first", "by name", ["c", "b", "a"])
    assert make_policy(path).decide(CALL, []).rank == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module_here:Policy", "cannot be imported: No module named 'no_such_module_here'"),
        ("{}:Missing", "cannot be imported: module .* has no attribute 'Missing'"),
        ("{}:", "module:attribute is needed"),
        ("{}:a.b", "module:attribute is needed"),
        ("os; x:y", "module:attribute is needed"),
        ("{}:" + "x" * 200, "at most 200 characters"),
        ("{}:number", "it is of type int; a callable that takes the cost model is needed"),
        ("{}:Needy", "Needy cannot be called with a cost model: TypeError"),
        ("{}:Nameless", "its name is 'None'; at most 40 lower-case letters"),
        ("{}:Shouting", "its name is 'LAST FIRST'; at most 40 lower-case letters"),
        ("{}:Fallback", "but not 'fallback'"),
        ("{}:Mute", r"it has no method decide\(call, candidates\)"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(module: str, path: str, reason: str) -> None:
    for refuse in (check_policy, make_policy):
        with pytest.raises(ValueError, match=reason):
            refuse(path.format(module))


def test_a_module_that_fails_on_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_policy_that_fails.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="it cannot be imported: division by zero"):
        check_policy("own_policy_that_fails:Policy")


class Scripted:
    """Decides what it is given; raises it if it is an error."""

    name = "scripted"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


def ranked(*replicas: str, reason: str = "so") -> Decision:
    estimates = [CostModel().estimate(CALL, Candidate(ReplicaState(name, "1"))) for name in replicas]
    return Decision("scripted", reason, tuple(estimates))


@pytest.mark.parametrize(
    "answer",
    [KeyError("x"), ranked("a", "z"), ranked("a", "a"), ranked(), None, "a"],
    ids=lambda answer: str(answer)[:20],
)
def test_a_decision_that_is_not_one_is_replaced_by_a_hash_and_logged_once(answer: object) -> None:
    policy = OwnPolicy(Scripted(answer), CostModel())
    with capture_logs() as records:
        decisions = [policy.decide(CALL, FLEET) for _ in range(3)]
    assert all(sorted(decision.rank) == ["a", "b", "c"] for decision in decisions)
    assert {decision.policy for decision in decisions} == {"scripted"}
    assert decisions[0].reason.startswith("scripted failed: ")
    assert [record["policy"] for record in records] == ["scripted"]


def test_a_policy_may_leave_candidates_out() -> None:
    assert OwnPolicy(Scripted(ranked("b")), CostModel()).decide(CALL, FLEET).rank == ["b"]


def test_a_reason_fits_a_header() -> None:
    policy = OwnPolicy(Scripted(ranked("a", reason="héllo\r\nx-evil: 1" + "x" * 999)), CostModel())
    reason = policy.decide(CALL, FLEET).reason
    assert reason.startswith("h?llo??x-evil: 1")
    assert len(reason) == MAX_REASON
