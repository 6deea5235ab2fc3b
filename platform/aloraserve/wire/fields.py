"""Parts that every request shares: exact JSON types, refused and ignored fields, bounded text.

They are read by msgspec, which stops at the first fault: a body of a million unknown fields costs no more than one.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

from msgspec import Meta, Raw, Struct, ValidationError, json

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_VALUE_BYTES = 128 * 1024
"""Of a field whose value is short, or is not read: what is longer is refused before anything is made of it."""
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256

IGNORED_FIELDS = ("user", "metadata", "store", "service_tier")
"""Fields that clients commonly send and that change no answer here; everything else unknown is refused."""

Value = TypeVar("Value")
ONLY = "only"
"""Marks a field that is not served, with the values that ask for nothing beside null and what is empty."""
Nothing: TypeAlias = (
    Annotated[str, Meta(max_length=0)]
    | Annotated[list[None], Meta(max_length=0)]
    | Annotated[dict[str, None], Meta(max_length=0)]
    | None
)
Unsupported: TypeAlias = Annotated[Nothing, Meta(extra={ONLY: ""})]
"""Type of a field that is OpenAI's or vLLM's but not served here; null and what is empty count as absent."""
OnlyZero: TypeAlias = Annotated[Annotated[float, Meta(ge=0, le=0)] | None, Meta(extra={ONLY: "0"})]
OnlyOne: TypeAlias = Annotated[Annotated[float, Meta(ge=1, le=1)] | None, Meta(extra={ONLY: "1"})]
OnlyText: TypeAlias = Annotated[list[Literal["text"]] | None, Meta(extra={ONLY: '["text"]'})]


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


class WrongValueError(ValueError):
    """Raised for a :func:`small_value` that is not of its type.

    Args:
        field: its name.
        error: says what is wrong where, from the field's value on.
    """

    def __init__(self, field: str, error: ValidationError) -> None:
        super().__init__(str(error))
        self.field = field
        self.error = error


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

    def __post_init__(self) -> None:
        for name in IGNORED_FIELDS:
            check_size(name, getattr(self, name))


def check_size(field: str, value: Raw) -> None:
    """Raise a :class:`FieldError` if a field's value, as it stands in the body, is too long."""
    size = len(memoryview(value))
    if size > MAX_VALUE_BYTES:
        raise refusal(field, f"has {size} bytes; at most {MAX_VALUE_BYTES} are accepted")


def small_value(field: str, value: Raw, decoder: json.Decoder[Value]) -> Value | None:
    """Return a field's value, None if it is absent.

    Raises:
        FieldError: it is too long.
        WrongValueError: it is not what the decoder reads.
    """
    check_size(field, value)
    try:
        return decoder.decode(value) if memoryview(value) else None
    except ValidationError as error:
        raise WrongValueError(field, error) from None


def text_bytes(value: str) -> int:
    """Return the UTF-8 length of ``value`` in bytes."""
    return len(value) if value.isascii() else len(value.encode())


StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
STOPS = json.Decoder(StopString | Annotated[list[StopString], Meta(max_length=MAX_STOPS)] | None)
