"""Bodies as routers send them on: with fields of their own engine's API, at their defaults, beside the client's."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import ChatRequest, CompletionRequest, reply_for
from aloraserve.wire.chat import ChatMessage

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
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(reply_for(error).body["error"]["message"]) from None
    if not isinstance(fields, dict):
        raise InvalidRequestError("the body is not a JSON object")
    fields = _known(fields, kind.model_fields)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            _known(message, ChatMessage.model_fields) if isinstance(message, dict) else message for message in messages
        ]
    try:
        return kind.model_validate(fields)
    except ValueError as error:
        found = reply_for(error).body["error"]
        raise InvalidRequestError(found["message"], param=found["param"]) from None


def _known(fields: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in names}
