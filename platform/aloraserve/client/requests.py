"""Calls as transports make them: a path of the HTTP API and a body, or the gRPC method that takes the same."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETION, INTRINSICS = "/v1/chat/completions", "/v1/completions", "/v1/intrinsics"
ADAPTERS = "/v1/adapters"
KEYED = frozenset({CHAT, COMPLETION, INTRINSICS})
"""Paths whose requests may have a key; streams have none."""


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One call.

    Args:
        path: of the HTTP API.
        body: as HTTP has it; None: a GET.
        is_streamed: whether the answer comes in parts.
        query: of a GET.
        key: under which it may be sent again: the answer is then the same one.
    """

    path: str
    body: Mapping[str, Any] | None = None
    is_streamed: bool = False
    query: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def idempotency_key(self) -> Mapping[str, str]:
        """The key as a header, or as metadata; nothing for a request that has none."""
        is_keyed = self.path in KEYED and not self.is_streamed
        return {"idempotency-key": self.key} if is_keyed else {}

    @property
    def http_body(self) -> Mapping[str, Any] | None:
        """The body with what says that the answer is streamed."""
        if self.body is None or not self.is_streamed:
            return self.body
        return {**self.body, "stream": True, "stream_options": {"include_usage": True}}


def chat_request(model: str, messages: Any, fields: Mapping[str, Any], *, is_streamed: bool = False) -> CallRequest:
    """Return a chat."""
    return CallRequest(CHAT, {"model": model, "messages": list(messages), **fields}, is_streamed)


def completion_request(model: str, prompt: Any, fields: Mapping[str, Any], *, is_streamed: bool = False) -> CallRequest:
    """Return a completion."""
    return CallRequest(COMPLETION, {"model": model, "prompt": prompt, **fields}, is_streamed)


def intrinsics_request(messages: Any, intrinsics: Any, fields: Mapping[str, Any]) -> CallRequest:
    """Return a run of intrinsics; each is a name, or a name with fields."""
    items = [{"name": item} if isinstance(item, str) else item for item in intrinsics]
    return CallRequest(INTRINSICS, {"messages": list(messages), "intrinsics": items, **fields})


def adapters_request(after: str = "") -> CallRequest:
    """Return the question for a page of the catalog's versions.

    Args:
        after: the former page's ``next``, empty for the first.
    """
    return CallRequest(ADAPTERS, query={"after": after} if after else {})
