"""Answers of ``/v1/completions``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.serving.request import Echo, GenerationRequest
from aloraserve.wire.completions import Completion, CompletionChoice, CompletionLogprobs
from aloraserve.wire.responses import ResponsePart, SavingsUsage
from aloraserve_services.gateway.answers.base import Answer, WholeChoice
from aloraserve_services.gateway.answers.events import finite, reason_of


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    prefix = "cmpl"
    part_kind = "text_completion"
    before_text = b'"text":'

    def __init__(self, requests: Sequence[GenerationRequest], savings: SavingsUsage | None = None) -> None:
        super().__init__(requests, savings)
        self._echoed: set[int] = set()

    async def _whole(self, choices: list[WholeChoice]) -> ResponsePart:
        return self._completion(
            [
                CompletionChoice(
                    index=index,
                    text=choice.text,
                    logprobs=CompletionLogprobs(**self._logprobs(choice.logprobs, 0)) if self._with_logprobs else None,
                    finish_reason=reason_of(choice.finish_reason) or "stop",
                    stop_reason=choice.stop_reason,
                    token_ids=self._token_ids_of(choice),
                    prompt_token_ids=self._prompt_ids_of(index),
                    prompt_logprobs=self._prompt_logprobs_of(index),
                )
                for index, choice in enumerate(choices)
            ]
        )

    def choice_fields(self, chunk: EngineChunk) -> dict[str, Any]:
        """See the base class; the prompt's ids stand in the first chunk of each choice."""
        fields = super().choice_fields(chunk)
        return fields | self.opening_fields(chunk.index) if self._is_first(chunk) else fields

    def _is_first(self, chunk: EngineChunk) -> bool:
        return self._tokens[chunk.index] == chunk.tokens

    def _shown(self, chunk: EngineChunk) -> EngineChunk:
        """Return a chunk as the answer shows it: a choice's first one begins with the prompt's echo, if any."""
        echo = self._request_of(chunk.index).echo
        if echo is None:
            return super()._shown(chunk)
        if echo.is_alone:
            chunk = replace(chunk, text="", logprobs=())
        if chunk.index not in self._echoed:
            self._echoed.add(chunk.index)
            logprobs = self._echoed_logprobs(chunk.index, echo) if self._with_logprobs else ()
            chunk = replace(chunk, text=echo.text + chunk.text, logprobs=logprobs + chunk.logprobs)
        return super()._shown(chunk)

    def _echoed_logprobs(self, choice: int, echo: Echo) -> tuple[TokenLogprobs, ...]:
        found, count = self._prompt_logprobs[self._prompt_of(choice)], self._request_of(choice).sampling.logprobs or 0
        first = TokenLogprob(echo.first_token, math.nan, None, self._request_of(choice).token_ids[0])
        return tuple(
            TokenLogprobs(first) if token is None else TokenLogprobs(token.chosen, token.alternatives[:count])
            for token in found
        )

    def _openings(self) -> list[bytes]:
        return []

    def _closing(self) -> ResponsePart:
        return self._completion([])

    def _completion(self, choices: list[CompletionChoice]) -> ResponsePart:
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=self.usage,
        )

    def _logprobs(self, logprobs: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
        offsets = []
        for token in logprobs:
            offsets.append(offset)
            offset += len(token.chosen.token)
        return {
            "tokens": [token.chosen.token for token in logprobs],
            "token_logprobs": [finite(token.chosen) for token in logprobs],
            "top_logprobs": [
                None
                if math.isnan(token.chosen.logprob)
                else {other.token: finite(other) for other in (*token.alternatives, token.chosen)}
                for token in logprobs
            ],
            "text_offset": offsets,
        }
