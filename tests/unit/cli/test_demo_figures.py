"""The demo's figures: medians of what was measured, and savings over pairs alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve_services.cli.demo_figures import Comparison, comparisons, measured_saving_s, summary
from aloraserve_services.cli.demo_player import Row

Make = Callable[..., Row]


def test_each_turn_with_both_kinds_is_compared_in_the_order_played(rows: list[Row]) -> None:
    first, second = comparisons(rows)
    assert first == Comparison(511, pytest.approx(0.2), pytest.approx(2.1), None)
    assert second == Comparison(1000, pytest.approx(0.2), pytest.approx(4.2), pytest.approx(1.2))


def test_turns_of_the_same_number_in_two_conversations_are_apart(row: Make) -> None:
    made = [
        row(kind, "x", ttft_s, conversation=name, state="first")
        for name, ttft_s in (("a", 1.0), ("b", 3.0))
        for kind in ("alora", "lora")
    ]
    assert [one.alora_s for one in comparisons(made)] == [1.0, 3.0]


def test_one_outlier_moves_no_median(row: Make) -> None:
    made = [row("alora", "x", ttft_s) for ttft_s in (0.1, 0.2, 9.0)]
    made += [row("lora", "x-lora", ttft_s, state="first") for ttft_s in (1.0, 2.0, 90.0)]
    assert [(one.alora_s, one.lora_first_s) for one in comparisons(made)] == [(0.2, 2.0)]


def test_ratios_are_of_lora_to_alora() -> None:
    both = Comparison(500, 0.5, 2.0, 1.0)
    assert (both.first_ratio, both.returning_ratio) == (4.0, 2.0)
    neither = Comparison(500, 0.5, None, None)
    assert (neither.first_ratio, neither.returning_ratio) == (None, None)


def test_savings_are_of_pairs_that_were_both_called_in_a_turn(rows: list[Row]) -> None:
    assert measured_saving_s(rows) == pytest.approx((2.1 - 0.1) + (1.2 - 0.2))


def test_a_twin_of_another_turn_or_conversation_is_not_a_pair(row: Make) -> None:
    made = [
        row("alora", "x", 0.1),
        row("lora", "x-lora", 1.0, turn=2),
        row("lora", "x-lora", 1.0, conversation="other"),
        row("lora", "y-lora", 1.0),
        row("base", "x-lora", 1.0),
    ]
    assert measured_saving_s(made) == 0


def test_an_adapter_that_was_slower_than_its_twin_counts_against_the_saving(row: Make) -> None:
    assert measured_saving_s([row("alora", "x", 1.5), row("lora", "x-lora", 1.0)]) == pytest.approx(-0.5)


def test_the_summary_adds_up_tokens_by_kind(rows: list[Row]) -> None:
    found = summary(rows)
    assert found["tokens_not_prefilled"] == {"base": 32, "alora": 2208, "lora": 480}
    assert found["prompt_tokens"] == {"base": 800, "alora": 2322, "lora": 2510}
    assert found["time_saved_s"] == pytest.approx(3.0)


def test_the_summary_has_a_comparison_a_prompt_length(rows: list[Row]) -> None:
    assert summary(rows)["ttft"][0] == {
        "prompt_tokens": 511,
        "alora_s": pytest.approx(0.2),
        "lora_first_s": pytest.approx(2.1),
        "lora_returning_s": None,
        "lora_first_to_alora": pytest.approx(10.5),
        "lora_returning_to_alora": None,
    }
    assert [one["prompt_tokens"] for one in summary(rows)["ttft"]] == [511, 1000]


def test_no_calls_have_a_summary_too() -> None:
    nothing = {"base": 0, "alora": 0, "lora": 0}
    assert summary([]) == {
        "ttft": [],
        "tokens_not_prefilled": nothing,
        "prompt_tokens": nothing,
        "time_saved_s": 0,
    }
