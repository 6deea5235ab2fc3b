"""From the bytes of a request to its validated fields, read once by msgspec.

A fault is found where it stands: what follows it in the body is not read. Readers of JSON differ on which of two equal
keys counts; msgspec takes the last, so the keys of a body that is valid, or short, are compared afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import Any, TypeVar

import msgspec

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.fields import MAX_TEXT_BYTES, RequestPart
from aloraserve.wire.refusals import MAX_QUOTED_BODY_BYTES, invalid_request, malformed, too_deep

DEFAULT_MAX_BODY_BYTES = 2 * MAX_TEXT_BYTES

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


def _check_keys(text: str) -> None:
    json.loads(text, object_pairs_hook=_refuse_twice)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequestError(f"the body has the key '{name[:80]}' twice in one object", param=name[:80])
