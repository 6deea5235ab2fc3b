"""From the bytes of a request to its validated fields, read once by msgspec.

A fault is found where it stands: what follows it in the body is not read. Readers of JSON differ on which of two equal
keys counts; msgspec takes the last, so the keys of a body that is valid, or short, are compared afterwards. Then
fields that are not known are found as well: msgspec passes them over.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
from typing import Any, TypeVar

import msgspec

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.fields import MAX_TEXT_BYTES, CallFields, FieldError, RequestPart
from aloraserve.wire.ignored import ignored_fields
from aloraserve.wire.refusals import (
    MAX_QUOTED_BODY_BYTES,
    invalid_request,
    malformed,
    too_deep,
    too_large_number,
)

DEFAULT_MAX_BODY_BYTES = 2 * MAX_TEXT_BYTES
MAX_STRINGS = 65_536
"""Names and texts of a body: the largest request that is valid has fewer, and comparing more would take long."""

_FLOAT_FOR_INT = re.compile(r"Expected `int( \| [a-z |]+)?`, got `float` - at `\$\.\w+`\Z")

Request = TypeVar("Request", bound=RequestPart)


def parse_body(model_class: type[Request], raw: bytes, max_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Request:
    """Return the request in ``raw``. It shares nothing with other calls: a long body may be read in a thread.

    Args:
        model_class: what to read. Of a call's body unknown fields are passed over and named in its ``ignored``.
        raw: the body, JSON in UTF-8.
        max_bytes: the longest body accepted.

    Raises:
        InvalidRequestError: the body is too long, no JSON object, has a key twice, or a field is wrong.
    """
    if len(raw) > max_bytes:
        raise InvalidRequestError(f"the body has {len(raw)} bytes; at most {max_bytes} are accepted")
    try:
        text = raw.decode()
        _check_strings(raw)
        request: Request = _decoder(model_class).decode(raw)
        body = compared(text)
        if isinstance(request, CallFields):
            msgspec.structs.force_setattr(request, "ignored", ignored_fields(type(request), body))
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"the body is not UTF-8 at byte {exc.start}") from None
    except msgspec.ValidationError as exc:
        if _FLOAT_FOR_INT.match(str(exc)) and (whole := _with_integers(text)) is not None:
            return parse_body(model_class, whole, max(max_bytes, len(whole)))
        if len(raw) <= MAX_QUOTED_BODY_BYTES:
            with contextlib.suppress(ValueError, RecursionError):
                compared(text)
        raise invalid_request(model_class, exc, raw) from None
    except msgspec.DecodeError as exc:
        raise malformed(exc, text) from None
    except FieldError as exc:
        raise InvalidRequestError(exc.message) from None
    except ValueError:
        raise too_large_number() from None
    except RecursionError:
        raise too_deep() from None
    return request


@functools.cache
def _decoder(model_class: type[Request]) -> msgspec.json.Decoder[Request]:
    return msgspec.json.Decoder(model_class)


def _with_integers(text: str) -> bytes | None:
    """Return a body whose fields that are integers are written as such, None if all are: Lua, PHP and R send ``4.0``.

    Only the body's own fields count: a number within a value is the value's.
    """
    try:
        body = compared(text)
    except (ValueError, RecursionError):
        return None
    whole = {name: int(value) for name, value in body.items() if isinstance(value, float) and value.is_integer()}
    if not whole:
        return None
    written = json.dumps(body | whole, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate stays the escape that it was.
    return written.encode(errors="backslashreplace")


def _check_strings(raw: bytes) -> None:
    """Refuse a body with more names and texts than any request has, before they are compared."""
    if len(raw) <= 2 * MAX_STRINGS or raw.count(b'"') <= 2 * MAX_STRINGS:
        return
    # Each step is one pass in C: a search that steps through the escapes would hold up every other thread meanwhile.
    if raw.replace(rb"\\", b"").replace(rb"\"", b"").count(b'"') > 2 * MAX_STRINGS:
        raise InvalidRequestError(f"the body has more than {MAX_STRINGS} names and texts")


def compared(text: str) -> Any:
    """Return JSON as json reads it, whose names are compared.

    Raises:
        InvalidRequestError: an object has a name twice.
        ValueError: a number is not finite, or has too many digits.
    """
    return json.loads(text, object_pairs_hook=_object, parse_float=_finite)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequestError(f"the body has the key '{name[:80]}' twice in one object", param=name[:80])
    return found


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number
