"""An ``io.yaml`` of granite's intrinsics libraries as an intrinsic's spec.

The file's fields and transformations are granite-common's (``granite_common.intrinsics``, 0.4.1), which transforms the
answers here, too. What it would only find out amid a call is checked when the adapter is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast, get_args

from aloraserve.adapters.intrinsics.documents import MAX_DEPTH, read_document, shown
from aloraserve.adapters.intrinsics.instruction import fields_of
from aloraserve.adapters.intrinsics.parameters import read_parameters
from aloraserve.adapters.intrinsics.spec import Documents, IntrinsicSpec, JsonForm
from aloraserve.adapters.intrinsics.transformations import check_transformations
from aloraserve.errors import InvalidAdapterError

IO_YAML_FILE = "io.yaml"
REQUIRED = ("model", "response_format", "transformations")
OPTIONAL = ("instruction", "parameters", "sentence_boundaries", "docs_as_message", "logprobs_workaround", "name")
"""``name`` is mellea's."""
MAX_SCHEMA_BYTES = 64 * 1024
_LOCATIONS = ("last_message", "documents")


def read_io_yaml(data: bytes) -> IntrinsicSpec:
    """Return the spec that an ``io.yaml`` is.

    Raises:
        InvalidAdapterError: names the field, its value and what is accepted.
    """
    config = read_document(data, IO_YAML_FILE)
    _check_fields(config)
    schema = _schema(config["response_format"])
    sentences = _sentences(config.get("sentence_boundaries"))
    rules = check_transformations(config["transformations"], schema, dict(sentences), IO_YAML_FILE)
    instruction = _text(config, "instruction")
    workaround = config.get("logprobs_workaround")
    if workaround not in (None, True, False):
        raise _wrong("logprobs_workaround", workaround, "true or false")
    return IntrinsicSpec(
        form=JsonForm(schema, data.decode("utf-8-sig") if rules else "", "likelihood" in rules),
        instruction=instruction,
        fields=fields_of(instruction, f"{IO_YAML_FILE}: instruction") if instruction is not None else (),
        parameters=read_parameters(config.get("parameters"), f"{IO_YAML_FILE}: parameters"),
        documents=_documents(config.get("docs_as_message"), rules),
        sentences=sentences,
        uses_logprob_text=bool(workaround),
    )


def _check_fields(config: Mapping[Any, Any]) -> None:
    missing = next((name for name in REQUIRED if name not in config), None)
    if missing is not None:
        raise InvalidAdapterError(f"{IO_YAML_FILE} has no {missing!r}; {', '.join(REQUIRED)} are needed")
    unknown = next((name for name in config if name not in REQUIRED + OPTIONAL), None)
    if unknown is not None:
        raise InvalidAdapterError(f"{IO_YAML_FILE} has {shown(unknown)}; accepted are {', '.join(REQUIRED + OPTIONAL)}")
    for name in ("model", "name"):
        _text(config, name)


def _text(config: Mapping[Any, Any], name: str) -> str | None:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "a text or null")
    return value


def _schema(value: object) -> str:
    """Return the answer's schema as JSON text, empty for null."""
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidAdapterError(f"{IO_YAML_FILE}: response_format is not JSON: {str(error)[:120]}") from None
    if not isinstance(value, dict):
        raise _wrong("response_format", value, "a JSON schema (an object, or its text)")
    return schema_text(value, f"{IO_YAML_FILE}: response_format")


def schema_text(schema: Mapping[str, Any], where: str) -> str:
    """Return a JSON schema as text.

    Raises:
        InvalidAdapterError: it is not a schema, too large or too deep, or refers to another document.
    """
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]

    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        _check_references(schema, where, 0)
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidAdapterError(f"{where} is not a JSON schema: {error.message[:120]}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidAdapterError(f"{where} is not JSON: {str(error)[:120]}") from None
    if len(text.encode("utf-8", "replace")) > MAX_SCHEMA_BYTES:
        raise InvalidAdapterError(f"{where} has more than {MAX_SCHEMA_BYTES} bytes")
    return text


def _check_references(value: object, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidAdapterError(f"{where} is nested too deeply; at most {MAX_DEPTH} levels are accepted")
    if isinstance(value, dict):
        target = value.get("$ref")
        if isinstance(target, str) and not target.startswith("#"):
            raise InvalidAdapterError(f"{where} refers to {shown(target)}; references within it (#/...) are accepted")
        for entry in value.values():
            _check_references(entry, where, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check_references(entry, where, depth + 1)


def _sentences(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise _wrong("sentence_boundaries", value, "a mapping from last_message or documents to a tag")
    for location, tag in value.items():
        if location not in _LOCATIONS:
            raise _wrong("sentence_boundaries for", location, " or ".join(_LOCATIONS))
        if not isinstance(tag, str) or not tag.isalpha() or not tag.isascii() or len(tag) > 8:
            raise _wrong("sentence_boundaries with the tag", tag, "1 to 8 letters")
    return tuple(sorted(value.items()))


def _documents(value: object, rules: tuple[str, ...]) -> Documents:
    accepted = get_args(Documents)[1:]
    if value is None:
        return "template"
    if value not in accepted:
        raise _wrong("docs_as_message", value, ", ".join(accepted))
    if value == "string" and "decode_sentences" in rules:
        raise _wrong("decode_sentences with docs_as_message", value, "json or roles")
    return cast(Documents, value)


def _wrong(name: str, value: object, accepted: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"{IO_YAML_FILE} has {name} {shown(value)}; {accepted} is accepted")
