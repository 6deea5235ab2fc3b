"""What ``aloraserve up`` says before it serves."""

from __future__ import annotations

from pathlib import Path

from aloraserve.adapters import AdapterVersion, ServedName
from aloraserve.settings import Settings
from aloraserve_services.cli.up import meaningless_answers


def served(name: str, *, is_untrained: bool) -> ServedName:
    version = AdapterVersion(name, "lora", Path(name), 4, ("q_proj",), (), "0" * 64, untrained=is_untrained)
    return ServedName(name, name, version)


def test_adapters_with_random_weights_are_named() -> None:
    found = [served("safety", is_untrained=False), *(served(name, is_untrained=True) for name in ("a", "b"))]
    assert list(meaningless_answers(found, Settings())) == [
        "with random weights, so that their judgements mean nothing: a, b"
    ]
    assert list(meaningless_answers(found[:1], Settings())) == []


def test_simulated_engines_answer_with_random_words_whatever_is_trained() -> None:
    [said] = meaningless_answers([served("safety", is_untrained=False)], Settings(engine="simulated"))
    assert said.startswith("the engines are simulated: all answers are random words")
