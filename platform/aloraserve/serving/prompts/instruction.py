"""The instruction of an adapter that is asked by one more user message, with the adapter's invocation in its text."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aloraserve.errors import InvalidAdapterError, InvalidRequestError
from aloraserve.serving.prompts.escaping import SPLIT

LAST_MESSAGE = "last_message"
"""The field that holds the text of the conversation's last message, as in granite-common."""


class Asked(NamedTuple):
    """An instruction with its values.

    Args:
        values: what stands between the template's literal parts.
        is_complete: whether the conversation's last message is the instruction already.
        is_apart: whether the invocation is tokenized apart from what stands around it.
    """

    values: tuple[str, ...]
    is_complete: bool
    is_apart: bool = False


class Instruction:
    """A template with ``{fields}``, one of whose literal parts has the invocation.

    Only the literal parts may invoke: what a value holds is the client's text, and is written so that its tokens are
    not the invocation's.

    Args:
        template: of the message; the invocation's text alone stands for "the invocation, and anything after it".
        invocation: its text.
        divided: the same with a :data:`~aloraserve.serving.prompts.escaping.SPLIT` in it, which gives it other tokens;
            equal to the text if there are none.

    Attributes:
        fields: names of the template's fields.

    Raises:
        InvalidAdapterError: the template does not have the invocation.
    """

    def __init__(self, template: str, invocation: str, divided: str) -> None:
        self._literals, self.fields = ((invocation, ""), ("",)) if template == invocation else _parsed(template)
        places = [number for number, literal in enumerate(self._literals) if invocation and invocation in literal]
        if not places:
            raise InvalidAdapterError(f"the instruction does not contain the adapter's invocation, {invocation[:80]!r}")
        self._invoking = places[-1]
        self._invocation = invocation
        self._divided = divided

    def asked_in(self, text: str) -> Asked | None:
        """Return the values of a message that is this instruction, None if it is another text.

        Raises:
            InvalidRequestError: it cannot be told which part of the message invokes.
        """
        values = self._values_in(text)
        is_inner = 0 < self._invoking < len(self._literals) - 1
        if values is not None and is_inner and text.count(self._literals[self._invoking]) > 1:
            raise InvalidRequestError(
                "a value of the instruction repeats the part of it that invokes; leave it out", param="messages"
            )
        return None if values is None else Asked(values, is_complete=True)

    def asked_with(self, given: Mapping[str, str]) -> Asked:
        """Return the values of the template's fields.

        Raises:
            InvalidRequestError: one is missing.
        """
        missing = [name for name in self.fields if name and name not in given]
        if missing:
            raise InvalidRequestError(
                f"the adapter's instruction has the field {missing[0]!r}, which has no value; end the messages with "
                "the whole instruction",
                param="messages",
            )
        return Asked(tuple(given.get(name, "") for name in self.fields), is_complete=False)

    def text(self, asked: Asked, escape: Callable[[str], str]) -> str:
        """Return the message for the template.

        Args:
            asked: the values.
            escape: makes client text harmless.

        Raises:
            InvalidRequestError: a value holds an invocation that cannot be written with other tokens.
        """
        values = [self._harmless(escape(value)) for value in asked.values] + [""]
        literals = list(self._literals)
        if asked.is_apart:
            before, _, after = literals[self._invoking].rpartition(self._invocation)
            literals[self._invoking] = f"{before}{SPLIT}{self._invocation}{SPLIT}{after}"
        return "".join(part for pair in zip(literals, values, strict=True) for part in pair)

    def _harmless(self, value: str) -> str:
        if self._invocation == self._divided and self._invocation in value:
            raise InvalidRequestError(
                f"a value of the instruction holds the adapter's invocation, {self._invocation[:80]!r}, which has the "
                "same tokens however it is written; leave it out",
                param="messages",
            )
        return value.replace(self._invocation, self._divided)

    def _values_in(self, text: str) -> tuple[str, ...] | None:
        first, *others = self._literals
        if not others:
            return () if text == first else None
        *inner, last = others
        end = len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last) or end < len(first):
            return None
        values, start = [], len(first)
        for literal in inner:
            place = text.find(literal, start, end)
            if place < 0:
                return None
            values.append(text[start:place])
            start = place + len(literal)
        return (*values, text[start:end])


def _parsed(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the literal parts of a template, one more than it has fields, and the fields' names."""
    literals, fields = [""], []
    for literal, name, _, _ in string.Formatter().parse(template):
        literals[-1] += literal
        if name is not None:
            fields.append(name)
            literals.append("")
    return tuple(literals), tuple(fields)
