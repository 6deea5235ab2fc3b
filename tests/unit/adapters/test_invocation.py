"""Where an adapter's invocation stands, if its files do not say."""

from __future__ import annotations

import pytest

from aloraserve.adapters.invocation import InvocationMode, derived_mode


@pytest.mark.parametrize(
    ("invocation", "generation_prompt", "mode"),
    [
        ([5, 6], [1, 5, 6], InvocationMode.GENERATION_PROMPT),
        ([6], [1, 5, 6], InvocationMode.GENERATION_PROMPT),
        ([1, 5], [1, 5, 6], InvocationMode.APPENDED),
        ([0, 1, 5, 6], [1, 5, 6], InvocationMode.APPENDED),
        ([], [1, 5, 6], InvocationMode.APPENDED),
        ([5, 6], [], InvocationMode.APPENDED),
    ],
)
def test_only_what_ends_the_generation_prompt_is_it(
    invocation: list[int], generation_prompt: list[int], mode: InvocationMode
) -> None:
    assert derived_mode(invocation, generation_prompt) is mode


def test_a_sidecar_names_a_mode_by_its_value() -> None:
    assert [InvocationMode(name) for name in ("appended", "instruction", "generation_prompt")] == list(InvocationMode)
