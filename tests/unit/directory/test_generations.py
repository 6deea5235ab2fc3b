"""Which incarnation counts, which one is filled, and which ones are left."""

from __future__ import annotations

from aloraserve.directory.base import MAX_FORMER
from aloraserve.directory.generations import Generations


def test_an_abandoned_generation_stops_counting_at_once() -> None:
    generations = Generations("s")
    generations.abandon()
    assert generations.named == generations.filled == "s.1"
    assert generations.former() == ("s.0",)


def test_a_replaced_generation_counts_until_the_next_is_whole() -> None:
    generations = Generations("s")
    generations.replace(name_by=5.0)
    generations.on_time(4.9)
    assert (generations.named, generations.filled, generations.former()) == ("s.0", "s.1", ())
    assert generations.former(removing=True) == ("s.0",)
    generations.whole()
    assert (generations.named, generations.former()) == ("s.1", ())


def test_a_replaced_generation_counts_no_longer_than_was_said() -> None:
    generations = Generations("s")
    generations.replace(name_by=5.0)
    generations.on_time(5.0)
    assert (generations.named, generations.former()) == ("s.1", ("s.0",))


def test_earlier_generations_are_remembered_up_to_a_bound() -> None:
    generations = Generations("s")
    for _ in range(MAX_FORMER + 3):
        generations.abandon()
    assert len(generations.former()) == MAX_FORMER
    assert generations.former()[-1] == f"s.{MAX_FORMER + 2}"
    generations.whole()
    assert generations.former() == ()
