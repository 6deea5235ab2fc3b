"""Parts that every request shares: exact JSON types, refused, ignored and unknown fields, bounded text.

They are read by msgspec, which stops at the first fault: a body of a million unknown fields costs no more than one.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal, TypeAlias, TypeVar

from msgspec import Meta, Raw, Struct, ValidationError, field, json, structs

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_VALUE_BYTES = 128 * 1024
"""Of a field whose value is short, or is not read: what is longer is refused before anything is made of it."""
MAX_STOPS = 128
MAX_STOP_CHARACTERS = 256

Value = TypeVar("Value")
OWN_FIELD = "(ignored)"
"""The name in a body of what only the reader of the body sets."""
ABSENT = Raw()
"""Stands for a field that is not in the body and is read later, or never."""
IGNORED = "ignored"
"""Marks a field that is accepted and changes nothing."""
Ignored: TypeAlias = Annotated[Raw, Meta(extra={IGNORED: ""})]
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
OnlyNull: TypeAlias = Annotated[None, Meta(extra={ONLY: "null"})]
"""Type of a field that is served elsewhere, and not here."""
OnlyFalse: TypeAlias = Annotated[bool | None, Meta(extra={ONLY: "false"})]
OnlyTrue: TypeAlias = Annotated[bool | None, Meta(extra={ONLY: "true"})]
OnlyZero: TypeAlias = Annotated[Annotated[float, Meta(ge=0, le=0)] | None, Meta(extra={ONLY: "0"})]
OnlyOne: TypeAlias = Annotated[Annotated[float, Meta(ge=1, le=1)] | None, Meta(extra={ONLY: "1"})]
OnlyUnlimited: TypeAlias = Annotated[Annotated[int, Meta(ge=-1, le=-1)] | None, Meta(extra={ONLY: "-1"})]
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


class OpenPart(RequestPart, forbid_unknown_fields=False, frozen=True, kw_only=True):
    """Base of what calls consist of, in OpenAI's and vLLM's shapes: unknown fields are passed over and named."""


class CallFields(OpenPart, frozen=True, kw_only=True):
    """Fields of every call.

    Attributes:
        ignored: unknown fields that were passed over, with the names of those above them; clients cannot set it.
        user: and those below: accepted and not even read, but for their size, because they change no answer here.
    """

    ignored: tuple[str, ...] = field(default=(), name=OWN_FIELD)
    user: Ignored = ABSENT
    metadata: Ignored = ABSENT
    store: Ignored = ABSENT
    service_tier: Ignored = ABSENT
    prediction: Ignored = ABSENT
    prompt_cache_key: Ignored = ABSENT
    prompt_cache_options: Ignored = ABSENT
    prompt_cache_retention: Ignored = ABSENT
    safety_identifier: Ignored = ABSENT
    session_id: Ignored = ABSENT
    return_token_offsets: Ignored = ABSENT
    mm_payload: Ignored = ABSENT
    return_mm_kwargs: Ignored = ABSENT

    def __post_init__(self) -> None:
        check_switches(self)
        for name in _marked(type(self), IGNORED):
            if (value := getattr(self, name)) is not ABSENT:
                check_size(name, value)


def check_switches(part: OpenPart) -> None:
    """Raise a :class:`FieldError` if a field that is not served, and true or false, has the other value."""
    for name, only in _switches(type(part)):
        if getattr(part, name) is (not only):
            raise not_served(name, "true" if only else "false")


@functools.cache
def _switches(kind: type[OpenPart]) -> tuple[tuple[str, bool], ...]:
    """Return the fields that are true or false, with the one value that asks for nothing."""
    only = {"true": True, "false": False}
    return tuple((name, only[value]) for name, value in _marked(kind, ONLY).items() if value in only)


def unserved_fields(kind: type[Struct]) -> dict[str, str]:
    """Return the fields that are not served, with the values that they may have beside null and what is empty."""
    return _marked(kind, ONLY)


@functools.cache
def _marked(kind: type[Struct], mark: str) -> dict[str, str]:
    return {
        field.name: meta.extra[mark]
        for field in structs.fields(kind)
        for meta in getattr(field.type, "__metadata__", ())
        if meta.extra and mark in meta.extra
    }


def not_served(field: str, only: str) -> FieldError:
    """Return the error of a field that is not served.

    Args:
        field: its name.
        only: the value that it may have, empty if that is null and what is empty.
    """
    if not only:
        return refusal(field, "is not supported by this server")
    return refusal(field, f"is not supported by this server; only {only} is accepted")


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
STOPS = json.Decoder(
    Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]
    | Annotated[list[StopString], Meta(max_length=MAX_STOPS)]
    | None
)
