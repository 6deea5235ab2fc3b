"""Our own spec: the object ``intrinsic`` of an adapter's ``aloraserve.json``.

For adapters that do not answer in JSON: a digit, yes or no, one of some words, or what a regular expression describes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aloraserve.adapters.intrinsics.documents import shown
from aloraserve.adapters.intrinsics.granite import schema_text
from aloraserve.adapters.intrinsics.instruction import fields_of
from aloraserve.adapters.intrinsics.parameters import read_parameters
from aloraserve.adapters.intrinsics.spec import (
    ChoiceForm,
    GuardRule,
    IntrinsicSpec,
    JsonForm,
    OutputForm,
    RegexForm,
    TextForm,
)
from aloraserve.errors import InvalidAdapterError

WHERE = "aloraserve.json: intrinsic"
MAX_CHOICES = 64
MAX_CHOICE_CHARACTERS = 256
MAX_PATTERN_CHARACTERS = 1024
DIGIT_NUMBERS = tuple(round(0.05 + digit / 10, 2) for digit in range(10))
"""An uncertainty's digit d stands for 5 + 10 d percent (Granite's uncertainty intrinsic)."""
_KEYS = ("output", "instruction", "parameters", "documents", "guard")


def read_own_spec(given: object) -> IntrinsicSpec:
    """Return the spec that ``aloraserve.json`` has in ``intrinsic``.

    Args:
        given: parsed JSON.

    Raises:
        InvalidAdapterError: names the key, its value and what is accepted.
    """
    spec = _object(given, "", _KEYS)
    if "output" not in spec:
        raise InvalidAdapterError(f"{WHERE} has no 'output'; one of {', '.join(_FORMS)} is needed in its 'form'")
    instruction = spec.get("instruction")
    if instruction is not None and not isinstance(instruction, str):
        raise _wrong("instruction", instruction, "a text")
    documents = spec.get("documents", "template")
    if documents not in ("template", "string", "json", "roles"):
        raise _wrong("documents", documents, "template, string, json or roles")
    return IntrinsicSpec(
        form=_form(spec["output"]),
        instruction=instruction,
        fields=fields_of(instruction, f"{WHERE}.instruction") if instruction is not None else (),
        parameters=read_parameters(spec.get("parameters"), f"{WHERE}.parameters"),
        documents=documents,
        guard=_guard(spec.get("guard")),
    )


def _form(given: object) -> OutputForm:
    keys = ("form", "choices", "probabilities", "pattern", "schema")
    output = _object(given, ".output", keys)
    form = output.get("form")
    if not isinstance(form, str) or form not in _FORMS:
        raise _wrong("output.form", form, ", ".join(_FORMS))
    read, accepted = _FORMS[form]
    extra = next((key for key in output if key not in (*accepted, "form")), None)
    if extra is not None:
        raise _wrong(f"output with form {form} and", extra, ", ".join(accepted) or "nothing else")
    return read(output)


def _digit(output: Mapping[str, Any]) -> ChoiceForm:
    digits = tuple(str(digit) for digit in range(10))
    return ChoiceForm(digits, _numbers(output.get("probabilities"), digits) or DIGIT_NUMBERS, "digit")


def _yes_no(output: Mapping[str, Any]) -> ChoiceForm:
    choices = _choices(output.get("choices", ["Y", "N"]))
    if len(choices) != 2:
        raise _wrong("output.choices", list(choices), "a list of two, the one for yes first,")
    return ChoiceForm(choices, (1.0, 0.0), "yes_no")


def _choice(output: Mapping[str, Any]) -> ChoiceForm:
    choices = _choices(output.get("choices"))
    return ChoiceForm(choices, _numbers(output.get("probabilities"), choices))


def _regex(output: Mapping[str, Any]) -> RegexForm:
    pattern = output.get("pattern")
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS:
        raise _wrong("output.pattern", pattern, f"a regular expression of 1 to {MAX_PATTERN_CHARACTERS} characters")
    return RegexForm(pattern)


def _json(output: Mapping[str, Any]) -> JsonForm:
    schema = output.get("schema")
    if not isinstance(schema, dict):
        raise _wrong("output.schema", schema, "a JSON schema")
    return JsonForm(schema_text(schema, f"{WHERE}.output.schema"))


_FORMS: dict[str, tuple[Callable[[Mapping[str, Any]], OutputForm], tuple[str, ...]]] = {
    "digit": (_digit, ("probabilities",)),
    "yes_no": (_yes_no, ("choices",)),
    "choice": (_choice, ("choices", "probabilities")),
    "regex": (_regex, ("pattern",)),
    "json": (_json, ("schema",)),
    "text": (lambda output: TextForm(), ()),
}


def _choices(value: object) -> tuple[str, ...]:
    accepted = f"a list of 2 to {MAX_CHOICES} different texts of 1 to {MAX_CHOICE_CHARACTERS} characters"
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CHOICES:
        raise _wrong("output.choices", value, accepted)
    if not all(isinstance(choice, str) and 0 < len(choice) <= MAX_CHOICE_CHARACTERS for choice in value):
        raise _wrong("output.choices", value, accepted)
    if len(set(value)) < len(value):
        raise _wrong("output.choices", value, accepted)
    return tuple(value)


def _numbers(value: object, choices: tuple[str, ...]) -> tuple[float, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) != len(choices) or not all(map(_is_probability, value)):
        raise _wrong("output.probabilities", value, f"a list of {len(choices)} numbers from 0 to 1")
    return tuple(float(number) for number in value)


def _guard(given: object) -> GuardRule:
    if given is None:
        return GuardRule()
    guard = _object(given, ".guard", ("threshold", "refuses"))
    threshold, refuses = guard.get("threshold", 0.5), guard.get("refuses", "above")
    if not _is_probability(threshold):
        raise _wrong("guard.threshold", threshold, "a number from 0 to 1")
    if refuses not in ("above", "below"):
        raise _wrong("guard.refuses", refuses, "above or below")
    return GuardRule(float(threshold), refuses)


def _is_probability(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def _object(given: object, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise InvalidAdapterError(f"{WHERE}{where} is {shown(given)}; an object is accepted")
    unknown = next((key for key in given if key not in keys), None)
    if unknown is not None:
        raise InvalidAdapterError(f"{WHERE}{where} has {shown(unknown)}; accepted are {', '.join(keys)}")
    return given


def _wrong(key: str, value: object, accepted: str) -> InvalidAdapterError:
    return InvalidAdapterError(f"{WHERE} has {key} {shown(value)}; {accepted} is accepted")
