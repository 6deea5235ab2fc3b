"""Traces of a chat service: rows with a time, lengths and the ids of each 512 tokens, read from a file or generated.

The format is that of Mooncake's published traces (Qin et al., "Mooncake: A KVCache-centric Disaggregated Architecture
for LLM Serving", 2024, section 4): one JSON object a line with ``timestamp`` in ms, ``input_length``,
``output_length`` and ``hash_ids``. An id stands for 512 tokens (the last one for what is left); equal ids at the same
place after equal ids are equal tokens.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from aloraserve.errors import SettingsError

ID_TOKENS = 512
MAX_ROWS = 1_000_000
MAX_TOKENS = 4_000_000


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One base call.

    Args:
        arrival_s: since the trace's start.
        input_tokens: length of the prompt.
        output_tokens: length of the answer.
        ids: of each 512 tokens of the prompt.
        session: which conversation it belongs to, see :func:`with_sessions`.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    ids: tuple[int, ...]
    session: str = ""


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRow]:
    """Return a file's first ``limit`` rows, sorted by time, with sessions.

    Raises:
        SettingsError: the file cannot be read, or a line is not what the format says; names the line and the field.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
            wanted = itertools.islice(numbered, min(limit or MAX_ROWS, MAX_ROWS))
            rows = [_row(line, f"{path}:{number}") for number, line in wanted]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"trace {path} cannot be read: {error}") from None
    if not rows:
        raise SettingsError(f"trace {path} has no rows")
    return with_sessions(sorted(rows, key=lambda row: row.arrival_s))


def _row(line: str, where: str) -> TraceRow:
    try:
        content = json.loads(line)
    except ValueError:
        raise SettingsError(f"trace {where} is not JSON: {line.strip()[:80]!r}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"trace {where} is {line.strip()[:80]!r}; an object is needed")
    timestamp = content.get("timestamp")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or not 0 <= timestamp < 1e12:
        raise SettingsError(f"trace {where}: timestamp is {timestamp!r}; milliseconds from 0 are accepted")
    tokens = {name: content.get(name) for name in ("input_length", "output_length")}
    for name, value in tokens.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS:
            raise SettingsError(f"trace {where}: {name} is {value!r}; 1 to {MAX_TOKENS} are accepted")
    prompt = content["input_length"]
    ids = content.get("hash_ids")
    needed = -(-prompt // ID_TOKENS)
    if (
        not isinstance(ids, list)
        or len(ids) != needed
        or not all(type(block_id) is int and 0 <= block_id < 2**63 for block_id in ids)
    ):
        raise SettingsError(
            f"trace {where}: hash_ids must be {needed} whole numbers, one for each {ID_TOKENS} of {prompt} tokens"
        )
    return TraceRow(timestamp / 1000, prompt, content["output_length"], tuple(ids))


def with_sessions(rows: Iterable[TraceRow]) -> list[TraceRow]:
    """Return the rows with the session that each belongs to.

    A row that shares at least two leading ids with earlier ones belongs to the session of the row that brought the
    last id shared: its conversation went on. One id is a system prompt (the first id of the published conversation
    trace is in all of its rows), and the row starts a session.
    """
    owners: dict[tuple[str, int], str] = {}
    found: list[TraceRow] = []
    for number, row in enumerate(rows):
        session, shared = f"s{number}", 0
        parent = ""
        places: list[tuple[str, int]] = []
        for block_id in row.ids:
            places.append((parent, block_id))
            parent = str(block_id)
        while shared < len(places) and places[shared] in owners:
            shared += 1
        if shared >= 2:
            session = owners[places[shared - 1]]
        for place in places[shared:]:
            owners[place] = session
        found.append(replace(row, session=session))
    return found


@dataclass(frozen=True, slots=True)
class GeneratedTrace:
    """How to make a trace where there is none: conversations over shared documents that grow turn by turn.

    Args:
        documents: distinct documents; a conversation takes one, the first ones more often.
        document_tokens: length of the longest; the others are between a quarter of it and it.
        turns: mean number of turns of a conversation.
        turn_tokens: mean new tokens of a user's turn.
        answer_tokens: mean length of an answer.
        think_s: mean pause between an answer's start and the next turn.
        conversations_per_s: how often one starts.
    """

    documents: int = 40
    document_tokens: int = 16_384
    turns: float = 4.0
    turn_tokens: int = 900
    answer_tokens: int = 300
    think_s: float = 40.0
    conversations_per_s: float = 1.0

    def rows(self, count: int, seed: int) -> list[TraceRow]:
        """Return ``count`` rows, sorted by time, with sessions; equal arguments give equal rows."""
        chooser = random.Random(f"trace {seed}")  # noqa: S311
        numbers: dict[tuple[object, ...], int] = {}
        lengths = self._lengths(chooser)
        rows: list[TraceRow] = []
        start_s = 0.0
        conversation = 0
        # Conversations that start later may still have earlier turns than the last of these: make more, then sort.
        while len(rows) < count * 1.5 + 50:
            start_s += chooser.expovariate(self.conversations_per_s)
            rows += self._conversation(conversation, start_s, lengths, chooser, numbers)
            conversation += 1
        rows.sort(key=lambda row: row.arrival_s)
        return rows[:count]

    def rows_from(self, starts_s: Iterable[float], seed: int) -> list[TraceRow]:
        """Return the rows of conversations that start at given times, sorted by time, with sessions."""
        chooser = random.Random(f"trace {seed}")  # noqa: S311
        numbers: dict[tuple[object, ...], int] = {}
        lengths = self._lengths(chooser)
        rows: list[TraceRow] = []
        for number, start_s in enumerate(starts_s):
            rows += self._conversation(number, start_s, lengths, chooser, numbers)
        return sorted(rows, key=lambda row: row.arrival_s)

    def _lengths(self, chooser: random.Random) -> list[int]:
        return [
            ID_TOKENS * max(1, round(self.document_tokens * chooser.uniform(0.25, 1.0) / ID_TOKENS))
            for _ in range(self.documents)
        ]

    def _conversation(
        self,
        number: int,
        start_s: float,
        lengths: list[int],
        chooser: random.Random,
        numbers: dict[tuple[object, ...], int],
    ) -> list[TraceRow]:
        document = min(int(chooser.paretovariate(0.8)) - 1, len(lengths) - 1)
        tokens, arrival_s = lengths[document], start_s
        rows: list[TraceRow] = []
        while True:
            tokens += 1 + round(chooser.expovariate(1 / self.turn_tokens))
            answer = 1 + round(chooser.expovariate(1 / self.answer_tokens))
            ids = tuple(
                numbers.setdefault(place, len(numbers)) for place in self._places(number, document, lengths, tokens)
            )
            rows.append(TraceRow(arrival_s, tokens, answer, ids, f"s{number}"))
            if chooser.random() < 1 / self.turns:
                return rows
            tokens += answer
            arrival_s += chooser.expovariate(1 / self.think_s)

    @staticmethod
    def _places(number: int, document: int, lengths: list[int], tokens: int) -> Iterable[tuple[object, ...]]:
        """Yield what stands for each 512 tokens: a part of the document, or of the conversation, whole or not."""
        for start in range(0, tokens, ID_TOKENS):
            if start < lengths[document]:
                yield ("document", document, start)
            else:
                yield ("conversation", number, start, min(tokens - start, ID_TOKENS))
