"""Templates of instructions: plain ``{fields}``, and nothing that Python's formatting can do beside."""

from __future__ import annotations

import string

from aloraserve.errors import InvalidAdapterError

MAX_INSTRUCTION_CHARACTERS = 16 * 1024
MAX_FIELDS = 16
MAX_FIELD_NAME_CHARACTERS = 64
LAST_MESSAGE = "last_message"
"""The field that holds the conversation's last message, as in granite-common."""


def fields_of(template: str, where: str) -> tuple[str, ...]:
    """Return the names of a template's fields, each once.

    Attributes, indices, conversions and formats (``{x.__class__}``, ``{x:>9999999}``) are refused: the text is to be
    put in as it is.

    Args:
        template: of an instruction.
        where: the file and the key, for errors.

    Raises:
        InvalidAdapterError: it is too long or no template of that kind.
    """
    if len(template) > MAX_INSTRUCTION_CHARACTERS:
        raise InvalidAdapterError(
            f"{where} has {len(template)} characters; at most {MAX_INSTRUCTION_CHARACTERS} are accepted"
        )
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidAdapterError(f"{where} is not a template: {error}; write a brace that is text twice") from None
    names: dict[str, None] = {}
    for _, name, format_spec, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or len(name) > MAX_FIELD_NAME_CHARACTERS or format_spec or conversion:
            raise InvalidAdapterError(
                f"{where} has the field {name[:60]!r}; plain names such as {{criteria}} are accepted"
            )
        names[name] = None
    if len(names) > MAX_FIELDS:
        raise InvalidAdapterError(f"{where} has {len(names)} fields; at most {MAX_FIELDS} are accepted")
    return tuple(names)
