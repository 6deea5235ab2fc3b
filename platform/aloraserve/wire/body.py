"""From the bytes of a request to its validated model."""

from __future__ import annotations

import json
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.errors import invalid_request, reply_for
from aloraserve.wire.fields import MAX_TEXT_BYTES, RequestPart

DEFAULT_MAX_BODY_BYTES = 2 * MAX_TEXT_BYTES

Request = TypeVar("Request", bound=RequestPart)


def parse_body(model_class: type[Request], raw: bytes, max_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Request:
    """Return the request in ``raw``.

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
        return model_class.model_validate(_json_object(raw))
    except ValidationError as exc:
        raise invalid_request(exc) from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"the body is not UTF-8 at byte {exc.start}") from None
    except json.JSONDecodeError as exc:
        raise InvalidRequestError(reply_for(exc).body["error"]["message"]) from None
    except ValueError:
        raise InvalidRequestError("the body has a number with too many digits") from None
    if not isinstance(data, dict):
        raise InvalidRequestError("the body is not a JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; JSON readers differ on which of two equal keys counts, so refuse them."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequestError(f"the body has the key '{name[:80]}' twice in one object", param=name[:80])
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"the body has {name}, which is not JSON; finite numbers are accepted")
