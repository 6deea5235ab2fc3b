"""Rows of a demo, made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve_services.cli.demo_player import Row


def made_row(
    kind: str,
    adapter: str,
    ttft_s: float,
    *,
    conversation: str = "ferry",
    turn: int = 1,
    prompt_tokens: int = 500,
    cached_tokens: int = 0,
    state: str = "warm",
    reason: str = "least work",
    answer: str = "N",
) -> Row:
    return Row(
        conversation, turn, adapter, kind, "engine-0", prompt_tokens, cached_tokens, ttft_s, state, reason, answer
    )


@pytest.fixture
def row() -> Callable[..., Row]:
    return made_row


@pytest.fixture
def rows() -> list[Row]:
    """Two turns with both kinds, and one of the base model and an aLoRA adapter alone."""
    return [
        made_row("base", "base", 2.0, state="cold"),
        made_row("alora", "safety", 0.1, prompt_tokens=510, cached_tokens=480),
        made_row("alora", "uncertainty", 0.3, prompt_tokens=512, cached_tokens=480),
        made_row("lora", "safety-lora", 2.1, prompt_tokens=510, state="first"),
        made_row("alora", "safety", 0.2, turn=2, prompt_tokens=1000, cached_tokens=960),
        made_row("lora", "safety-lora", 1.2, turn=2, prompt_tokens=1000, cached_tokens=480, state="returning"),
        made_row("lora", "other-lora", 4.2, turn=2, prompt_tokens=1000, state="first"),
        made_row("base", "base", 1.0, conversation="glasshouse", prompt_tokens=300, cached_tokens=32),
        made_row("alora", "safety", 0.4, conversation="glasshouse", prompt_tokens=300, cached_tokens=288),
    ]
