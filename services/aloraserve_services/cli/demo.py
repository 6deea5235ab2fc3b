"""The demo: a conversation over documents, judged after each answer by adapters of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aloraserve_services.cli.client import Timed, TimedClient
from aloraserve_services.cli.demo_text import (
    MAX_ANSWER_TOKENS,
    Conversation,
    Turn,
    ferry_conversation,
    glasshouse_conversation,
)
from aloraserve_services.models.untrained import INTRINSICS, TWIN_SUFFIX
from aloraserve_services.plan import FleetPlan

JUDGEMENT_TOKENS = 4


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


@dataclass
class DemoPlayer:
    """Plays the demo's conversations against a running platform.

    Args:
        plan: of that platform.
        client: for its HTTP API.
        show: called with each row as it comes.
    """

    plan: FleetPlan
    client: TimedClient
    show: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)
    _tokenizer: Any = None

    def play(self) -> list[Row]:
        """Play the long conversation with adapters, then the short one that shares nothing with it."""
        self._play("ferry", ferry_conversation())
        self._play("glasshouse", glasshouse_conversation())
        return self.rows

    def _play(self, name: str, conversation: Conversation) -> None:
        messages = [{"role": "system", "content": conversation.system}]
        called: set[str] = set()
        for number, turn in enumerate(conversation.turns, start=1):
            messages.append({"role": "user", "content": turn.user})
            answer = self.client.chat(self.plan.served_name, messages, MAX_ANSWER_TOKENS)
            self._note(name, number, "base", "base", answer, _warmth(answer))
            messages.append({"role": "assistant", "content": answer.text})
            self._judge(name, number, turn, messages, called)

    def _judge(self, name: str, number: int, turn: Turn, messages: list[dict[str, str]], called: set[str]) -> None:
        for adapter in INTRINSICS:
            judged = self.client.chat(adapter, messages, JUDGEMENT_TOKENS)
            self._note(name, number, adapter, "alora", judged, _warmth(judged))
        for twin in turn.twins:
            judged = self.client.complete(twin, self._token_ids(messages, twin), JUDGEMENT_TOKENS)
            self._note(name, number, twin, "lora", judged, "returning" if twin in called else "first")
            called.add(twin)

    def _token_ids(self, messages: list[dict[str, str]], twin: str) -> list[int]:
        """Return exactly the prompt that the twin's aLoRA sister had."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(self.plan.model_path), local_files_only=True)
        sister = self.plan.adapter(twin.removesuffix(TWIN_SUFFIX))
        text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, *(sister.invocation_ids if sister else ())]

    def _note(self, conversation: str, turn: int, adapter: str, kind: str, call: Timed, state: str) -> None:
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
        )
        self.rows.append(row)
        self.show(row)


def _warmth(call: Timed) -> str:
    return "warm" if call.cached_tokens else "cold"


@dataclass(frozen=True, slots=True)
class Comparison:
    """TTFT of both kinds at one prompt length, medians in seconds; None where no call was made."""

    prompt_tokens: int
    alora_s: float
    lora_first_s: float | None
    lora_returning_s: float | None

    @property
    def first_ratio(self) -> float | None:
        """TTFT LoRA (first) : aLoRA."""
        return None if self.lora_first_s is None else self.lora_first_s / self.alora_s

    @property
    def returning_ratio(self) -> float | None:
        """TTFT LoRA (returning) : aLoRA."""
        return None if self.lora_returning_s is None else self.lora_returning_s / self.alora_s


def comparisons(rows: list[Row]) -> Iterator[Comparison]:
    """Yield one comparison a turn that had both kinds."""
    for conversation, turn in dict.fromkeys((row.conversation, row.turn) for row in rows):
        here = [row for row in rows if (row.conversation, row.turn) == (conversation, turn)]
        alora, lora = (
            [row for row in here if row.kind == "alora"],
            [row for row in here if row.kind == "lora"],
        )
        if alora and lora:
            yield Comparison(
                prompt_tokens=round(_median([row.prompt_tokens for row in alora]) or 0),
                alora_s=_median([row.ttft_s for row in alora]) or 0.0,
                lora_first_s=_median([row.ttft_s for row in lora if row.state == "first"]),
                lora_returning_s=_median([row.ttft_s for row in lora if row.state == "returning"]),
            )


def _median(values: list[float] | list[int]) -> float | None:
    import statistics

    return float(statistics.median(values)) if values else None


def measured_saving_s(rows: list[Row]) -> float:
    """Return the TTFT that aLoRA calls saved against their twins, over the pairs that were both called in a turn."""
    twins = {(row.conversation, row.turn, row.adapter): row.ttft_s for row in rows if row.kind == "lora"}
    return sum(
        twins[key] - row.ttft_s
        for row in rows
        if row.kind == "alora" and (key := (row.conversation, row.turn, row.adapter + TWIN_SUFFIX)) in twins
    )


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return the demo's summary, for JSON."""
    return {
        "ttft": [
            {
                "prompt_tokens": one.prompt_tokens,
                "alora_s": one.alora_s,
                "lora_first_s": one.lora_first_s,
                "lora_returning_s": one.lora_returning_s,
                "lora_first_to_alora": one.first_ratio,
                "lora_returning_to_alora": one.returning_ratio,
            }
            for one in comparisons(rows)
        ],
        "tokens_not_prefilled": {
            kind: sum(row.cached_tokens for row in rows if row.kind == kind) for kind in ("base", "alora", "lora")
        },
        "prompt_tokens": {
            kind: sum(row.prompt_tokens for row in rows if row.kind == kind) for kind in ("base", "alora", "lora")
        },
        "time_saved_s": measured_saving_s(rows),
    }
