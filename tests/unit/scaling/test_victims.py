"""Who leaves: the replica whose holdings are worth least."""

from __future__ import annotations

from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.scaling.victims import victims


def state(name: str, saved_s: float = 0.0, elsewhere_s: float = 0.0, **more: object) -> ReplicaState:
    load = ReplicaLoad(running=int(str(more.pop("running", 0))), adapter_load_s=3.0)
    return ReplicaState(name, "1", load=load, saved_s=saved_s, saved_elsewhere_s=elsewhere_s, **more)  # type: ignore[arg-type]


def test_the_least_saved_goes_first() -> None:
    assert victims([state("a", 0.5), state("b", 0.1), state("c", 0.3)], 2) == ("b", "c")


def test_what_others_hold_too_does_not_count() -> None:
    assert victims([state("a", 0.5, 0.45), state("b", 0.1)], 1) == ("a",)
    assert victims([state("a", 0.5, 9.0), state("b", 0.1)], 1) == ("a",)


def test_an_adapter_that_nobody_else_has_counts() -> None:
    states = [state("a", resident=("x", "y")), state("b", resident=("x",)), state("c", resident=("x", "x"))]
    assert victims(states, 3) == ("b", "c", "a")


def test_among_equals_the_least_busy_goes_then_the_first_by_its_id() -> None:
    assert victims([state("a", running=3), state("b", running=1), state("c", running=1)], 2) == ("b", "c")


def test_who_leaves_already_is_not_chosen_and_keeps_nothing() -> None:
    states = [state("a", is_leaving=True, resident=("x",)), state("b", resident=("x",)), state("c", 0.001)]
    assert victims(states, 3) == ("c", "b")
    assert victims(states, -1) == ()
