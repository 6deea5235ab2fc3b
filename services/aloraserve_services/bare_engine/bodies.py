"""Bodies as routers send them on: with fields of their own engine's API, at their defaults, beside the client's."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeVar

from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.messages import ChatMessage

Body = TypeVar("Body", ChatRequest, CompletionRequest)


def read_body(kind: type[Body], raw: bytes) -> Body:
    """Return a validated body; fields that are not known are passed over, as vLLM does.

    Args:
        kind: what to read.
        raw: JSON in UTF-8.

    Raises:
        InvalidRequestError: it is not a JSON object, or a known field is wrong.
    """
    try:
        fields = json.loads(raw)
    except ValueError:
        return parse_body(kind, raw)
    if isinstance(fields, dict):
        fields = _known(fields, kind.__struct_fields__)
        if isinstance(messages := fields.get("messages"), list):
            fields["messages"] = [
                _known(message, ChatMessage.__struct_fields__) if isinstance(message, dict) else message
                for message in messages
            ]
    return parse_body(kind, json.dumps(fields).encode())


def _known(fields: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in names}
