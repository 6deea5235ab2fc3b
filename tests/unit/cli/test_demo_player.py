"""The demo's calls: who is asked what, in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve.wire.answer_stream import StreamedAnswer
from aloraserve_services.cli.demo_player import AFTER, BEFORE, DemoPlayer
from aloraserve_services.cli.demo_text import conversations
from aloraserve_services.models.untrained import INTRINSICS

BASE = "base-model"


class Tokenizer:
    """A token per character of the messages' contents."""

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(message["content"] for message in messages)

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(character) for character in text]}


@dataclass
class Client:
    """Answers with the number of its calls, and keeps what it was asked."""

    calls: list[tuple[str, Any]] = field(default_factory=list)

    def chat(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> StreamedAnswer:
        return self._answered(model, [dict(message) for message in messages])

    def complete(self, model: str, prompt: list[int], max_tokens: int) -> StreamedAnswer:
        return self._answered(model, "".join(map(chr, prompt)))

    def _answered(self, model: str, asked: Any) -> StreamedAnswer:
        self.calls.append((model, asked))
        return StreamedAnswer(f"answer {len(self.calls)}", 0.1, 0.2, 1, len(asked), 0, "engine-0")


@pytest.fixture
def played() -> Client:
    client = Client()
    plan: Any = SimpleNamespace(served_name=BASE, open_registry=lambda: SimpleNamespace(all=tuple))
    talker: Any = client
    rows = DemoPlayer(plan, talker, lambda row: None, _tokenizer=Tokenizer()).play()
    assert [row.answer for row in rows] == [f"answer {number}" for number in range(1, len(client.calls) + 1)]
    return client


def test_a_question_is_judged_before_it_is_answered_and_the_answer_after(played: Client) -> None:
    aloras = [call for call in played.calls if not call[0].endswith("-lora")]
    turns = sum(len(conversation.turns) for conversation in conversations().values())
    assert [model for model, _ in aloras] == [*BEFORE, BASE, *AFTER] * turns
    assert {*BEFORE, *AFTER} == set(INTRINSICS)
    for model, messages in aloras:
        assert messages[-1]["role"] == ("assistant" if model in AFTER else "user")


def test_a_twin_is_asked_what_its_alora_was(played: Client) -> None:
    asked = {}
    for model, prompt in played.calls:
        if model.endswith("-lora"):
            assert prompt == "".join(message["content"] for message in asked[model.removesuffix("-lora")])
        else:
            asked[model] = prompt


def test_the_unsafe_question_is_answered_by_the_model_itself(played: Client) -> None:
    [question] = [turn.user for each in conversations().values() for turn in each.turns if turn.is_unsafe]
    judged = [
        messages[-1] for model, messages in played.calls if model in AFTER and messages[-2]["content"] == question
    ]
    assert len(judged) == len(AFTER)
    assert all(message["content"].startswith("answer ") for message in judged)
