"""Parts that every request shares: exact JSON types, refused and ignored fields, bounded text.

They are read by msgspec, which stops at the first fault: a body of a million unknown fields costs no more than one.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Raw, Struct

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_IGNORED_BYTES = 64 * 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256

IGNORED_FIELDS = ("user", "metadata", "store", "service_tier", "parallel_tool_calls")
"""Fields that clients commonly send and that change no answer here; everything else unknown is refused."""

Unsupported: TypeAlias = None
"""Type of a field that is OpenAI's but not served here; null counts as absent."""


class FieldError(ValueError):
    """Raised for a field that has the right type, but cannot be accepted.

    Args:
        field: its name, empty if the message is a whole sentence.
        message: reads after the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def refusal(field: str, message: str) -> FieldError:
    """Return the error that a check raises; see :class:`FieldError`."""
    return FieldError(field, message)


class RequestPart(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of everything that a client sends: JSON types are exact, unknown fields are refused."""


class IgnoredFields(RequestPart, frozen=True, kw_only=True):
    """Fields that are accepted and not even read, but for their size."""

    user: Raw = Raw()
    metadata: Raw = Raw()
    store: Raw = Raw()
    service_tier: Raw = Raw()
    parallel_tool_calls: Raw = Raw()

    def __post_init__(self) -> None:
        for name in IGNORED_FIELDS:
            size = len(memoryview(getattr(self, name)))
            if size > MAX_IGNORED_BYTES:
                raise refusal(name, f"has {size} bytes; at most {MAX_IGNORED_BYTES} are accepted")


def text_bytes(value: str) -> int:
    """Return the UTF-8 length of ``value`` in bytes."""
    return len(value) if value.isascii() else len(value.encode())


StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopList = StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None
