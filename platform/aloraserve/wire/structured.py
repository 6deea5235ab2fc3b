"""The form that an answer must have: vLLM's ``structured_outputs`` and OpenAI's ``response_format``.

Sources: ``StructuredOutputsParams`` of vLLM 0.32 (``sampling_params.py``) and
``structured_outputs_from_response_format`` (``entrypoints/generate/base/protocol.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import DecodeError, Meta, Raw, json

from aloraserve.wire.fields import FieldError, OpenPart, Unsupported, refusal, small_value
from aloraserve.wire.json_schema import MAX_SCHEMA_BYTES, schema_fault, with_options
from aloraserve.wire.pattern import pattern_fault

MAX_CHOICES = 1024
MAX_CHOICE_CHARACTERS = 1024
MAX_PATTERN_CHARACTERS = 4096
MAX_GRAMMAR_CHARACTERS = 32 * 1024
ANY_OBJECT = '{"type":"object"}'

StructureKind = Literal["json", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What an engine holds every token of an answer to.

    Args:
        kind: how the form is given. Any JSON object is the schema ``{"type": "object"}``.
        text: the JSON schema as JSON, the regular expression, or the grammar (Lark or GBNF); empty for choices.
        choices: the answers that are possible, for that kind alone.
    """

    kind: StructureKind
    text: str = ""
    choices: tuple[str, ...] = ()


class StructuredOutputs(OpenPart, frozen=True, kw_only=True):
    """``structured_outputs``: one of the first five. A schema may be an object, or a string that has one."""

    json: Raw = Raw()
    regex: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARACTERS)] | None = None
    choice: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=MAX_CHOICE_CHARACTERS)]],
            Meta(min_length=1, max_length=MAX_CHOICES),
        ]
        | None
    ) = None
    grammar: Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_CHARACTERS)] | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: Unsupported = None
    structural_tag: Unsupported = None

    def forms(self) -> list[StructuredOutput]:
        """Return what is asked for."""
        self._check()
        return [
            *_json_forms("json", self.json),
            *([StructuredOutput("json", ANY_OBJECT)] if self.json_object else []),
            *([] if self.regex is None else [StructuredOutput("regex", self.regex)]),
            *([] if self.grammar is None else [StructuredOutput("grammar", self.grammar)]),
            *([] if self.choice is None else [StructuredOutput("choice", choices=tuple(self.choice))]),
        ]

    def _check(self) -> None:
        if self.disable_any_whitespace or self.disable_additional_properties:
            raise refusal("", "has an option that is not supported by this server; only false is accepted")
        for field, text in (("regex", self.regex), ("grammar", self.grammar)):
            if text and (fault := pattern_fault(text)):
                raise refusal(field, f"is not accepted: {fault}")
        if self.grammar and "%json" in self.grammar:
            raise refusal("grammar", "has a JSON schema in it; send it as 'json'")


class NamedSchema(OpenPart, frozen=True, kw_only=True):
    """``response_format.json_schema``; name, description and strictness change nothing: the schema always holds."""

    name: Annotated[str, Meta(max_length=256)] | None = None
    description: str | None = None
    schema: Raw = Raw()
    strict: bool | None = None


class ResponseFormat(OpenPart, frozen=True, kw_only=True):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"] | None = None
    json_schema: NamedSchema | None = None

    def forms(self) -> list[StructuredOutput]:
        """Return what is asked for."""
        if self.type is None and self.json_schema is not None:
            raise refusal("type", "is required")
        if self.type in ("text", None):
            return []
        if self.type == "json_object":
            return [StructuredOutput("json", ANY_OBJECT)]
        forms = [] if self.json_schema is None else _json_forms("json_schema.schema", self.json_schema.schema)
        if not forms:
            raise refusal("json_schema.schema", "is required for this type")
        return forms


_OUTPUTS = json.Decoder(StructuredOutputs | None)
_FORMAT = json.Decoder(ResponseFormat | None)
_SCHEMA = json.Decoder(str | dict[str, Any] | None)


def structured_output(structured_outputs: Raw, response_format: Raw) -> StructuredOutput | None:
    """Return the form that a request asks for, None if it asks for none.

    Args:
        structured_outputs: the field's value as it stands in the body.
        response_format: likewise.

    Raises:
        FieldError: more than one form, or a schema that is none, or one that is too large.
        WrongValueError: a value has the wrong type.
    """
    outputs = small_value("structured_outputs", structured_outputs, _OUTPUTS)
    wanted = small_value("response_format", response_format, _FORMAT)
    own = _forms("structured_outputs", outputs)
    if len(own) > 1:
        raise refusal(
            "structured_outputs", "has more than one of json, regex, choice, grammar and json_object; send one"
        )
    both = {*own, *_forms("response_format", wanted)}
    if len(both) > 1:
        raise refusal("", "'structured_outputs' and 'response_format' differ; send one of them")
    return both.pop() if both else None


def _forms(field: str, part: StructuredOutputs | ResponseFormat | None) -> list[StructuredOutput]:
    try:
        return [] if part is None else part.forms()
    except FieldError as error:
        raise refusal(f"{field}.{error.field}".rstrip("."), error.message) from None


def _json_forms(field: str, value: Raw) -> list[StructuredOutput]:
    if len(memoryview(value)) > MAX_SCHEMA_BYTES:
        raise refusal(field, f"is a schema above {MAX_SCHEMA_BYTES} bytes")
    schema = _decoded(field, value)
    if isinstance(schema, str):
        schema = _decoded(field, schema.encode())
    if schema is None:
        return []
    if isinstance(schema, str):
        raise refusal(field, "is not a JSON schema: an object is needed")
    if fault := schema_fault(schema):
        raise refusal(field, f"is a JSON schema that is not accepted: {fault}")
    return [StructuredOutput("json", json.encode(with_options(schema)).decode())]


def _decoded(field: str, value: Raw | bytes) -> str | dict[str, Any] | None:
    try:
        return _SCHEMA.decode(value) if memoryview(value) else None
    except (DecodeError, RecursionError):
        raise refusal(field, "is not a JSON schema: an object is needed") from None
