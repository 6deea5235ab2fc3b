"""The demo: a conversation over documents, judged before and after each answer by adapters of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aloraserve.wire.answer_stream import StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from aloraserve_services.cli.demo_text import (
    MAX_ANSWER_TOKENS,
    Conversation,
    conversations,
)
from aloraserve_services.models.untrained import INTRINSICS, TWIN_SUFFIX
from aloraserve_services.plan import FleetPlan

JUDGEMENT_TOKENS = 4
BEFORE = ("safety",)
"""Judge a question before it is answered, as a guard does; the other intrinsics judge the answer."""
AFTER = tuple(name for name in INTRINSICS if name not in BEFORE)


@dataclass(frozen=True, slots=True)
class Row:
    """One call of the demo.

    ``state`` of a LoRA call is "first" (that adapter's first on this conversation) or "returning" (its own earlier
    blocks are cached); of a base or aLoRA call "warm" if any of its prompt was cached, else "cold".
    """

    conversation: str
    turn: int
    adapter: str
    kind: str
    replica: str
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float
    state: str
    reason: str
    answer: str


@dataclass
class DemoPlayer:
    """Plays the demo's conversations against a running platform.

    Args:
        plan: of that platform.
        client: for its HTTP API.
        show: called with each row as it comes.
    """

    plan: FleetPlan
    client: StreamingClient
    show: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)
    _tokenizer: Any = None

    def __post_init__(self) -> None:
        self._versions = {version.name: version for version in self.plan.open_registry().all()}

    @property
    def untrained(self) -> list[str]:
        """The adapters that judge with random weights."""
        return self._untrained(INTRINSICS)

    @property
    def untrained_twins(self) -> list[str]:
        """The LoRA twins that have random weights."""
        return self._untrained([f"{name}{TWIN_SUFFIX}" for name in INTRINSICS])

    def _untrained(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self._versions and self._versions[name].untrained]

    def play(self) -> list[Row]:
        """Play the long conversation with adapters, then the short one that shares nothing with it."""
        for name, conversation in conversations().items():
            self._play(name, conversation)
        return self.rows

    def _play(self, name: str, conversation: Conversation) -> None:
        messages = [{"role": "system", "content": conversation.system}]
        called: set[str] = set()
        for number, turn in enumerate(conversation.turns, start=1):
            asked = [*messages, {"role": "user", "content": turn.user}]
            self._judge(name, number, BEFORE, asked)
            answer = self.client.chat(self.plan.served_name, asked, MAX_ANSWER_TOKENS)
            self._note(name, number, "base", "base", answer, _warmth(answer))
            messages = [*asked, {"role": "assistant", "content": turn.answer or answer.text}]
            self._judge(name, number, AFTER, messages)
            for twin in turn.twins:
                judged = asked if twin.removesuffix(TWIN_SUFFIX) in BEFORE else messages
                self._judge_by_twin(name, number, twin, judged, "returning" if twin in called else "first")
                called.add(twin)

    def _judge(self, name: str, number: int, adapters: Sequence[str], messages: list[dict[str, str]]) -> None:
        for adapter in adapters:
            judged = self.client.chat(adapter, messages, JUDGEMENT_TOKENS)
            self._note(name, number, adapter, "alora", judged, _warmth(judged))

    def _judge_by_twin(self, name: str, number: int, twin: str, messages: list[dict[str, str]], state: str) -> None:
        judged = self.client.complete(twin, self._token_ids(messages, twin), JUDGEMENT_TOKENS)
        self._note(name, number, twin, "lora", judged, state)

    def _token_ids(self, messages: list[dict[str, str]], twin: str) -> list[int]:
        """Return exactly the prompt that the twin's aLoRA sister had."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(self.plan.model_path), local_files_only=True)
        sister = self._versions.get(twin.removesuffix(TWIN_SUFFIX))
        text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, *(sister.invocation_ids if sister else ())]

    def _note(self, conversation: str, turn: int, adapter: str, kind: str, call: StreamedAnswer, state: str) -> None:
        row = Row(
            conversation,
            turn,
            adapter,
            kind,
            call.replica,
            call.prompt_tokens,
            call.cached_tokens,
            call.ttft_s,
            state,
            call.reason,
            call.text,
        )
        self.rows.append(row)
        self.show(row)


def _warmth(call: StreamedAnswer) -> str:
    return "warm" if call.cached_tokens else "cold"
