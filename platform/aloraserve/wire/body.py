"""From the bytes of a request to its validated fields, read once by msgspec.

A fault is found where it stands: what follows it in the body is not read. Readers of JSON differ on which of two equal
keys counts; msgspec takes the last, so the keys of a body that is valid, or short, are compared afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from typing import Any, TypeVar

import msgspec

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.fields import MAX_TEXT_BYTES, RequestPart
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.refusals import MAX_QUOTED_BODY_BYTES, invalid_request, malformed, too_deep

DEFAULT_MAX_BODY_BYTES = 2 * MAX_TEXT_BYTES

_OF_MESSAGES = frozenset(ChatMessage.__struct_fields__)
_EMPTY: tuple[object, ...] = (None, "", [], {})
_IN_A_MESSAGE = re.compile(r"(?s)Object contains unknown field `.*` - at `\$\.messages\[\d+\]`\Z")

Request = TypeVar("Request", bound=RequestPart)


def parse_body(model_class: type[Request], raw: bytes, max_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Request:
    """Return the request in ``raw``. It shares nothing with other calls: a long body may be read in a thread.

    Args:
        model_class: what to read.
        raw: the body, JSON in UTF-8.
        max_bytes: the longest body accepted.

    Raises:
        InvalidRequestError: the body is too long, no JSON object, has a key twice, or a field is wrong.
    """
    if len(raw) > max_bytes:
        raise InvalidRequestError(f"the body has {len(raw)} bytes; at most {max_bytes} are accepted")
    try:
        text = raw.decode()
        request: Request = _decoder(model_class).decode(raw)
        _check_keys(text)
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"the body is not UTF-8 at byte {exc.start}") from None
    except msgspec.ValidationError as exc:
        if (shorter := _without_empty_extras(exc, text)) is not None:
            return parse_body(model_class, shorter, max_bytes)
        if len(raw) <= MAX_QUOTED_BODY_BYTES:
            with contextlib.suppress(ValueError, RecursionError):
                _check_keys(text)
        raise invalid_request(exc, raw) from None
    except msgspec.DecodeError as exc:
        raise malformed(exc, text) from None
    except RecursionError:
        raise too_deep() from None
    return request


@functools.cache
def _decoder(model_class: type[Request]) -> msgspec.json.Decoder[Request]:
    return msgspec.json.Decoder(model_class)


def _without_empty_extras(error: msgspec.ValidationError, text: str) -> bytes | None:
    """Return a body without what its messages have of other servers' fields, None if there is nothing of that kind.

    Clients send an answer back as they got it, with fields that are null or empty. Nothing is lost with those.

    Args:
        error: says what is wrong with the body.
        text: the body.
    """
    if not _IN_A_MESSAGE.match(str(error)):
        return None
    try:
        _check_keys(text)
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    messages = [_without_empty(message) if isinstance(message, dict) else message for message in body["messages"]]
    return None if messages == body["messages"] else json.dumps(body | {"messages": messages}).encode()


def _without_empty(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name in _OF_MESSAGES or value not in _EMPTY}


def _check_keys(text: str) -> None:
    json.loads(text, object_pairs_hook=_refuse_twice)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequestError(f"the body has the key '{name[:80]}' twice in one object", param=name[:80])
