"""Parts that every request model shares: strict JSON types, refused and ignored fields, bounded text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256

IGNORED_FIELDS = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls"})
"""Fields that clients commonly send and that change no answer here; everything else unknown is refused."""


def refusal(kind: str, message: str) -> PydanticCustomError:
    """Return the error a validator raises: ``message`` reads after the field's name."""
    return PydanticCustomError(kind, "{reason}", {"reason": message})


class RequestPart(BaseModel):
    """Base of every model that a client sends: JSON types are exact, unknown fields are refused.

    A field in ``unsupported`` is OpenAI's but not served here; null counts as absent. A field in ``ignored``
    is accepted and dropped.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    unsupported: ClassVar[frozenset[str]] = frozenset()
    ignored: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        absent = {name for name in cls.unsupported if name in data and data[name] is None}
        return {name: value for name, value in data.items() if name not in absent | cls.ignored}


def checked_text(value: str) -> str:
    """Return ``value``; raise a validation error if it has a lone surrogate or too many bytes."""
    if text_bytes(value) > MAX_TEXT_BYTES:
        raise refusal("text_size", f"is too long; at most {MAX_TEXT_BYTES} bytes of text are accepted")
    return value


def text_bytes(value: str) -> int:
    """Return the UTF-8 length of ``value`` in bytes; raise a validation error for a lone surrogate."""
    try:
        return len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise refusal("text_unicode", "contains a lone surrogate; valid Unicode text is accepted") from None


Text = Annotated[str, AfterValidator(checked_text)]
"""A string that can be encoded, which JSON's lone surrogates cannot."""


def _stop_list(value: object) -> object:
    if value is None or isinstance(value, str):
        return value if value is None else [value]
    if not isinstance(value, list):
        raise refusal("stop_type", f"must be a string or a list of at most {MAX_STOPS} strings")
    return value


StopString = Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopList = Annotated[Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_stop_list)]
