"""Errors for a model that is not served."""

from __future__ import annotations

import pytest
from support.character_tokenizer import adapter

from aloraserve.adapters import StaticRegistry
from aloraserve.adapters.served import MAX_NAMES_SHOWN
from aloraserve.errors import UnknownModelError

MODELS = ("plain", "safety", "uncertain")


def fleet(*names: str) -> StaticRegistry:
    return StaticRegistry([adapter(name) for name in names], base_names=["base"])


@pytest.mark.parametrize("model", ["nobody", "Base", "safety ", "x" * 200])
def test_an_unknown_model_is_named_with_the_served_ones(model: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        fleet(*MODELS).resolve(model)
    assert caught.value.param == "model"
    assert caught.value.message == f"model {model[:80]!r} is not served; served are base, plain, safety, uncertain"


def test_of_many_served_names_the_first_are_shown_and_the_others_counted() -> None:
    names = [f"n{number:02}" for number in range(MAX_NAMES_SHOWN + 4)]
    with pytest.raises(UnknownModelError) as caught:
        fleet(*names).resolve("x")
    shown = ", ".join(["base", *names[: MAX_NAMES_SHOWN - 1]])
    assert caught.value.message.endswith(f"served are {shown} and 5 more")
