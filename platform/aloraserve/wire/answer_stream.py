"""A streamed answer as its client reads it: events, tokens and times. Clients differ only in how lines reach it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aloraserve.errors import AloraserveError

_DATA = b"data: "
_HEADER = "x-aloraserve-"


class CallFailedError(AloraserveError):
    """Raised when a client's call is not answered to its end; has the platform's message, never a prompt or a key."""


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """One answer.

    Args:
        text: what was generated.
        ttft_s: from sending the request to the event of the first token.
        e2e_s: to the event of the last token.
        completion_tokens: of the answer; 0 unless the request asked for its usage.
        prompt_tokens: of the prompt, an aLoRA's invocation included.
        cached_tokens: of those, not prefilled.
        replica: label of the replica that answered.
        reason: why the router chose it.
        policy: what chose it.
        prefill_s: of ``ttft_s``, the engine's prefill; None if the platform does not report it.
        saved_s: TTFT saved by reuse across adapters, as the platform estimates it; None if it does not.
        savings_confidence: of that estimate, 0 to 1.
    """

    text: str
    ttft_s: float
    e2e_s: float
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int
    replica: str
    reason: str = ""
    policy: str = ""
    prefill_s: float | None = None
    saved_s: float | None = None
    savings_confidence: float = 0.0

    @property
    def itl_s(self) -> float | None:
        """Mean time between two tokens, None for fewer than two."""
        if self.completion_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.completion_tokens - 1)


@dataclass(slots=True)
class AnswerStream:
    """Reads the server-sent events of one answer, line by line.

    Args:
        started: when the request was sent, on the clock of ``time.perf_counter``.
    """

    started: float
    is_whole: bool = False
    _texts: list[str] = field(default_factory=list)
    _usage: dict[str, Any] = field(default_factory=dict)
    _first_s: float = 0.0
    _last_s: float = 0.0

    def read(self, line: bytes) -> None:
        """Take a line; one without an event's data is passed over.

        Raises:
            CallFailedError: the platform cut the answer short.
            ValueError: the data is not JSON.
            KeyError: the event is not one of this API.
        """
        if not line.startswith(_DATA):
            return
        data = line[len(_DATA) :].strip()
        if data == b"[DONE]":
            self.is_whole = True
            return
        event = json.loads(data)
        if "error" in event:
            raise CallFailedError(f"cut short: {str(event['error'].get('message'))[:200]}")
        self._usage = event.get("usage") or self._usage
        for choice in event["choices"]:
            self._add(choice)

    def _add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", choice)
        # A special token, as an untrained adapter's first often is, comes as empty content; a role is not a token.
        if "role" not in delta:
            self._last_s = time.perf_counter() - self.started
            self._first_s = self._first_s or self._last_s
        self._texts.append(delta.get("content") or delta.get("text") or "")

    def answer(self, headers: Mapping[str, str]) -> StreamedAnswer:
        """Return what was read.

        Args:
            headers: of the response, by lower-case name.

        Raises:
            CallFailedError: the answer is not whole.
            LookupError: neither its usage nor its headers have its token counts.
        """
        if not self.is_whole:
            raise CallFailedError("cut short: the connection ended")
        own = {name.removeprefix(_HEADER): value for name, value in headers.items() if name.startswith(_HEADER)}
        return StreamedAnswer(
            text="".join(self._texts),
            ttft_s=self._first_s,
            e2e_s=self._last_s,
            completion_tokens=int(self._usage.get("completion_tokens", 0)),
            **self._prompt_counts(own),
            replica=own.get("replica", ""),
            reason=own.get("reason", ""),
            policy=own.get("policy", ""),
            prefill_s=_seconds(own.get("prefill-ms")),
            saved_s=_seconds(own.get("saved-ttft-ms")),
            savings_confidence=float(own.get("savings-confidence", 0)),
        )

    def _prompt_counts(self, own: Mapping[str, str]) -> dict[str, int]:
        if not self._usage:
            return {"prompt_tokens": int(own["prompt-tokens"]), "cached_tokens": int(own["cached-tokens"])}
        cached = self._usage["prompt_tokens_details"]["cached_tokens"]
        return {"prompt_tokens": int(self._usage["prompt_tokens"]), "cached_tokens": int(cached)}


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000
