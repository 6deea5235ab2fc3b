"""Answers of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloraserve.serving.engine_messages import TokenLogprobs
from aloraserve.wire.completions import Completion, CompletionChoice, CompletionLogprobs
from aloraserve.wire.responses import ResponsePart
from aloraserve_services.gateway.answers.base import Answer, WholeChoice
from aloraserve_services.gateway.answers.events import finite, reason_of


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    prefix = "cmpl"
    part_kind = "text_completion"
    before_text = b'"text":'

    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart:
        return self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=choice.text,
                    logprobs=CompletionLogprobs(**self._logprobs(choice.logprobs, 0)) if self._with_logprobs else None,
                    finish_reason=reason_of(choice.finish_reason) or "stop",
                )
                for index, choice in enumerate(choices)
            ]
        )

    def _openings(self) -> list[bytes]:
        return []

    def _closing(self) -> ResponsePart:
        return self._completion([])

    def _completion(self, choices: list[CompletionChoice]) -> ResponsePart:
        return Completion(id=self.id, created=self.created, model=self.model, choices=choices, usage=self.usage)

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        offsets = []
        for token in logprobs:
            offsets.append(offset)
            offset += len(token.chosen.token)
        return {
            "tokens": [token.chosen.token for token in logprobs],
            "token_logprobs": [finite(token.chosen) for token in logprobs],
            "top_logprobs": [
                {other.token: finite(other) for other in (*token.alternatives, token.chosen)} for token in logprobs
            ],
            "text_offset": offsets,
        }
