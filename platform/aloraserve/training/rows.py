"""Rows of training data: a conversation, what it is grounded on, and the answer that is to be learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from aloraserve.adapters.checks.strict_json import parse_object
from aloraserve.training.problems import ProblemList
from aloraserve.training.row_forms import RowError, RowForm, form_of, read_parts
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.fields import FieldError
from aloraserve.wire.messages import ChatMessage

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_ROWS = 1_000_000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One example before it is rendered.

    Args:
        conversation: what it belongs to; rows of one conversation stay on one side of a split.
        messages: as ``POST /v1/intrinsics`` takes them.
        completion: the answer.
        documents: likewise.
        fields: of the intrinsic's instruction, by name.
        file: that it stands in, as the spec names it.
        line: of the file, from 1.
    """

    conversation: str
    messages: tuple[Mapping[str, Any], ...]
    completion: str
    documents: tuple[Mapping[str, Any], ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    line: int = 0

    def chat(self, model: str) -> ChatRequest:
        """Return the conversation as the gateway reads it.

        Args:
            model: a served name.

        Raises:
            FieldError: the gateway would not accept it.
            msgspec.ValidationError: likewise.
        """
        return ChatRequest(
            model=model,
            messages=[msgspec.convert(message, ChatMessage) for message in self.messages],
            documents=[dict(document) for document in self.documents] or None,
        )


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file's rows.

    Args:
        name: of the file, as the spec has it.
        form: that all of them have.
        rows: in order.
    """

    name: str
    form: RowForm
    rows: tuple[TrainingRow, ...]


def read_rows(path: Path, name: str, problems: ProblemList) -> RowFile:
    """Return the rows of a JSONL file; note what is wrong with it, each problem with its line.

    Empty lines, CRLF and a byte order mark are accepted. The first row decides the file's form.

    Args:
        path: of the file.
        name: of the file, for messages.
        problems: to add to.
    """
    reader = _Reader(name, problems)
    try:
        # Neither a pipe nor a device, which might never end.
        if path.exists() and not path.is_file():
            problems.add(name, 0, "is not a file")
            return RowFile(name, RowForm.MESSAGES, ())
        with path.open("rb") as file:
            rows = tuple(row for line, data in reader.lines(file) if (row := reader.row(line, data)) is not None)
    except OSError as error:
        problems.add(name, 0, f"cannot be read: {error.strerror}")
        rows = ()
    except ValueError:
        problems.add(name, 0, "has a path that is not one")
        rows = ()
    else:
        if not reader.seen:
            problems.add(name, 0, "is empty", "a JSON object per line")
    return RowFile(name, reader.form or RowForm.MESSAGES, rows)


class _Reader:
    """Reads one file.

    Attributes:
        form: of its rows, None before the first.
        seen: lines that are not empty.
    """

    def __init__(self, name: str, problems: ProblemList) -> None:
        self.form: RowForm | None = None
        self.seen = 0
        self._name = name
        self._problems = problems
        self._decided_at = 0

    def lines(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its number, without those that are empty or too long."""
        number = 0
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
                self._problems.add(self._name, number, f"has more than {MAX_LINE_BYTES} bytes")
                _skip_line(file)
                self.seen += 1
                continue
            data = (data.removeprefix(_BOM) if number == 1 else data).strip(b" \t\r\n")
            if not data:
                continue
            self.seen += 1
            if self.seen > MAX_ROWS:
                self._problems.add(self._name, number, f"is past the {MAX_ROWS} rows that a file may have")
                return
            yield number, data

    def row(self, line: int, data: bytes) -> TrainingRow | None:
        """Return a line's row; note why there is none."""
        try:
            return self._row(line, data)
        except RowError as error:
            self._problems.add(self._name, line, error.found, error.accepted)
        except (FieldError, msgspec.ValidationError) as error:
            self._problems.add(self._name, line, f"would not be accepted by the gateway: {gateway_fault(error)}")
        except ValueError as error:
            self._problems.add(self._name, line, str(error))
        return None

    def _row(self, line: int, data: bytes) -> TrainingRow:
        given = parse_object(data)
        form = form_of(given)
        if self.form is None:
            self.form, self._decided_at = form, line
        elif form is not self.form:
            if "completion" not in given and {form, self.form} == {RowForm.MESSAGES, RowForm.LAST_MESSAGE}:
                ends = "a last message that answers" if form is RowForm.MESSAGES else "completion"
                raise RowError(f"has no {ends}, as line {self._decided_at} has")
            raise RowError(
                f"is in the form of {form.value}, line {self._decided_at} in that of {self.form.value}",
                "one form per file",
            )
        parts = read_parts(form, given)
        row = TrainingRow(
            conversation=parts.conversation or _conversation(parts.messages),
            messages=parts.messages,
            completion=parts.completion,
            documents=parts.documents,
            fields=parts.fields,
            file=self._name,
            line=line,
        )
        row.chat("-")
        return row


def _conversation(messages: tuple[Mapping[str, Any], ...]) -> str:
    """Return what rows of one conversation have in common where they do not say: how it begins."""
    first = next((message for message in messages if message["role"] == "user"), messages[0])
    return hashlib.sha256(str(first.get("content")).encode()).hexdigest()[:16]


def _skip_line(file: BinaryIO) -> None:
    while (data := file.readline(MAX_LINE_BYTES)) and not data.endswith(b"\n"):
        pass


def gateway_fault(error: Exception) -> str:
    """Return what the gateway would say; msgspec keeps the name of a field in its error's cause."""
    cause = error.__cause__ if isinstance(error.__cause__, FieldError) else error
    field_name, message = getattr(cause, "field", ""), getattr(cause, "message", str(cause))
    return f"{field_name} {message}".strip()[:200]
