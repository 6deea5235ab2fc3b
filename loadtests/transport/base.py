"""The contract of a transport: one streamed call, timed as a client sees it.

For use inside locust: a call blocks its greenlet alone, and any number may run at once on one transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loadtests.texts import Message


class CallError(Exception):
    """Raised when a call was not answered to its end; says what the platform said, never a prompt or a key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call.

    Args:
        text: the answer.
        ttft_s: from sending to the event of the first token.
        e2e_s: to the last event.
        completion_tokens: of the answer.
        prompt_tokens: of the prompt, an aLoRA's invocation included.
        cached_tokens: of those, not prefilled.
        replica: who answered.
        prefill_s: of ``ttft_s``, what the engine's prefill took; None if the platform does not say.
        saved_s: TTFT that the platform says reuse across adapters saved; None if it does not say.
    """

    text: str
    ttft_s: float
    e2e_s: float
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int
    replica: str
    prefill_s: float | None = None
    saved_s: float | None = None

    @property
    def itl_s(self) -> float | None:
        """Mean time between two tokens, None for fewer than two."""
        if self.completion_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.completion_tokens - 1)


class Transport(Protocol):
    """See the module's docstring."""

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> Answer:
        """Make a greedy, streamed chat call.

        Raises:
            CallError: it was not answered, or not to the end.
        """
        ...

    def models(self) -> list[str]:
        """Return the names that are served, the base model's first.

        Raises:
            CallError: the platform does not say.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
