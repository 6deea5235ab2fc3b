"""The form that an answer must have, free of any engine's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
