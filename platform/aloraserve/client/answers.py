"""Answers, whole and in parts, the same over both transports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Args:
        content: all of it, as the HTTP API has it in JSON.
    """

    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.content.get("id", ""))

    @property
    def text(self) -> str:
        """The first choice's text; empty if it has none."""
        choices = self.content.get("choices") or [{}]
        return str(choices[0].get("text") or (choices[0].get("message") or {}).get("content") or "")

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended."""
        choices = self.content.get("choices") or [{}]
        reason: str | None = choices[0].get("finish_reason")
        return reason

    @property
    def usage(self) -> Mapping[str, Any]:
        """Token counts."""
        usage: Mapping[str, Any] = self.content.get("usage") or {}
        return usage

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not prefilled."""
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a streamed answer; over gRPC the first alone has an id and a model.

    Args:
        content: the chunk, as the HTTP API has it in JSON.
    """

    content: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What it adds to the first choice's text."""
        return "".join(
            str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
            for choice in self.content.get("choices") or ()
            if not choice.get("index")
        )

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended, on its last part."""
        own = (choice for choice in self.content.get("choices") or () if not choice.get("index"))
        return next(filter(None, (choice.get("finish_reason") for choice in own)), None)

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """Token counts of the answer, on the last part alone."""
        usage: Mapping[str, Any] | None = self.content.get("usage")
        return usage
