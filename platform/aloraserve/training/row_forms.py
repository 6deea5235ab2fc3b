"""The forms that rows of training data come in, told apart by their keys.

==========  ==============================================================================================
ours        ``messages``, ``completion``, and optionally ``documents``, ``fields``, ``conversation``
alora       ``messages`` alone: the last one is the answer, its role the intrinsic's or ``assistant``
            (the training scripts of the ``alora`` package)
TRL         ``prompt`` and ``completion``, both lists of messages (TRL's conversational prompt-completion form)
mellea      ``item`` and ``label`` (``m alora train``)
==========  ==============================================================================================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from aloraserve.adapters.problems import shown
from aloraserve.wire.messages import ROLES

MAX_COMPLETION_CHARACTERS = 64 * 1024
MAX_CONVERSATION_CHARACTERS = 256
_ROLE = re.compile(ROLES)
_ROLES_SHOWN = "system, developer, user, assistant, tool, function or 'document ID'"
_OPTIONAL = ("documents", "fields", "conversation", "metadata")
_ANSWERS = ("system", "developer", "user", "tool", "function")
"""Roles whose message is never an answer."""


class RowForm(StrEnum):
    """A form of rows, by the keys that it is told by."""

    MESSAGES = "messages and completion"
    LAST_MESSAGE = "messages that end with the answer (alora)"
    PROMPT = "prompt and completion (TRL)"
    ITEM = "item and label (mellea)"


_KEYS = {
    RowForm.MESSAGES: ("messages", "completion", *_OPTIONAL),
    RowForm.LAST_MESSAGE: ("messages", *_OPTIONAL),
    RowForm.PROMPT: ("prompt", "completion", *_OPTIONAL),
    RowForm.ITEM: ("item", "label", *_OPTIONAL),
}


class RowError(Exception):
    """Raised when a row cannot be used.

    Args:
        found: the end of a sentence about the line.
        accepted: what is accepted instead; empty if ``found`` says it.
    """

    def __init__(self, found: str, accepted: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.accepted = accepted


class RowParts(NamedTuple):
    """The parts of a row, whatever its form.

    Args:
        messages: role and content of each.
        completion: the answer.
        documents: as the row has them.
        fields: of the instruction.
        conversation: its name, empty if the row has none.
    """

    messages: tuple[Mapping[str, Any], ...]
    completion: str
    documents: tuple[Mapping[str, Any], ...]
    fields: Mapping[str, str]
    conversation: str


def form_of(row: Mapping[str, Any]) -> RowForm:
    """Return a row's form.

    Raises:
        RowError: it has none of them.
    """
    if "item" in row or "label" in row:
        return RowForm.ITEM
    if "prompt" in row:
        return RowForm.PROMPT
    if "messages" in row:
        is_whole = "completion" in row or not _ends_with_answer(row["messages"])
        return RowForm.MESSAGES if is_whole else RowForm.LAST_MESSAGE
    raise RowError(f"has the keys {shown(list(row)[:8])}", f"those of {', or '.join(form.value for form in RowForm)}")


def read_parts(form: RowForm, row: Mapping[str, Any]) -> RowParts:
    """Return what a row of that form holds.

    Raises:
        RowError: it cannot be used.
    """
    _check_keys(row, _KEYS[form])
    match form:
        case RowForm.ITEM:
            item, completion = _text(row, "item"), _text(row, "label")
            messages: Sequence[Any] = [{"role": "user", "content": item}]
        case RowForm.LAST_MESSAGE:
            *messages, last = _list(row, "messages")
            completion = _text(last, "content")
        case RowForm.PROMPT:
            messages, completion = _list(row, "prompt"), _answer(row.get("completion"))
        case RowForm.MESSAGES:
            messages, completion = _list(row, "messages"), _text(row, "completion")
    return RowParts(_messages(messages), _completion(completion), _documents(row), _fields(row), _conversation(row))


def _ends_with_answer(messages: object) -> bool:
    last = messages[-1] if isinstance(messages, list) and len(messages) > 1 else None
    role = last.get("role") if isinstance(last, dict) else None
    return isinstance(role, str) and role not in _ANSWERS and not role.startswith("document ")


def _check_keys(row: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in row:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; 'metadata' may hold what is not used"
            raise RowError(f"has the unknown key {shown(key)}{hint}", ", ".join(known))


def _text(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        raise RowError(f"has no {key}")
    if not isinstance(row[key], str):
        raise RowError(f"has {key} {shown(row[key])}", f"a text, such as {shown(str(row[key]))[:40]}")
    return str(row[key])


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row[key]
    if not isinstance(value, list) or not value:
        raise RowError(f"has {key} {shown(value)}", "a list of messages, each with role and content")
    return value


def _answer(given: object) -> str:
    """Return the text of TRL's completion: a message in a list."""
    if isinstance(given, str):
        return given
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        return _text(given[0], "content")
    raise RowError("has no completion" if not given else f"has completion {shown(given)}", "a list of one message")


def _messages(given: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    if not given:
        raise RowError("has no message before the answer")
    for number, message in enumerate(given):
        if not isinstance(message, dict):
            raise RowError(f"has message {number} {shown(message)}", "an object with role and content")
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.match(role):
            raise RowError(f"has message {number} with the unknown role {shown(role)}", _ROLES_SHOWN)
    return tuple(given)


def _completion(text: str) -> str:
    if not text.strip():
        raise RowError("has an empty completion")
    if len(text) > MAX_COMPLETION_CHARACTERS:
        raise RowError(f"has a completion of {len(text)} characters", f"at most {MAX_COMPLETION_CHARACTERS}")
    return text


def _documents(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the documents; a text is one without an id."""
    given = row.get("documents")
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(document, str | dict) for document in given):
        raise RowError(f"has documents {shown(given)}", "a list of objects with text (and doc_id, title), or of texts")
    return tuple({"text": document} if isinstance(document, str) else document for document in given)


def _fields(row: Mapping[str, Any]) -> Mapping[str, str]:
    given = row.get("fields") or {}
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise RowError(f"has fields {shown(given)}", "an object of texts, by the names in the instruction")
    return given


def _conversation(row: Mapping[str, Any]) -> str:
    given = row.get("conversation")
    if given is None:
        return ""
    if type(given) not in (str, int) or not 0 < len(str(given)) <= MAX_CONVERSATION_CHARACTERS:
        raise RowError(
            f"has conversation {shown(given)}", f"a name of 1 to {MAX_CONVERSATION_CHARACTERS} characters, or a number"
        )
    return str(given)
