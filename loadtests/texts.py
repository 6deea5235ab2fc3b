"""Topics of conversations: documents and questions, generated from a seed or read from MTRAG-UN tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, str]
MAX_TASK_BYTES = 1 << 20
MAX_TASKS = 10_000
MAX_DOCUMENT_WORDS = 4000
_TEXT = """
the of and to in is that for it as with on by this from at are was be or an which have not can but they will all
one time when there more other new some could these may then do first any my now such like our over even most
after also made many before must through back years where much your way well down should because each just those
people state good world long work life day part both great water system place small found house school number
family public country early night river market light ground field letter paper music story money village
"""
_WORDS = tuple(_TEXT.split())


class TextSource:
    """Documents and questions.

    Args:
        seed: of what is generated and drawn.
        documents: real ones to draw from; none generates them.
    """

    def __init__(self, seed: int, documents: Sequence[str] = ()) -> None:
        self._seed = seed
        self._documents = tuple(documents)

    def document(self, name: str, words: int) -> str:
        """Return a text of about so many words; equal names give equal texts.

        A real document that is too short is followed by others.
        """
        # Not a seed of two values: a tuple's hash differs between processes.
        chooser = random.Random(f"{self._seed}/{name}")  # noqa: S311
        if not self._documents:
            return " ".join(chooser.choice(_WORDS) for _ in range(words))
        parts: list[str] = []
        while len(parts) < words:
            parts += chooser.choice(self._documents).split()
        return " ".join(parts[:words])

    def question(self, name: str) -> str:
        """Return a short question."""
        chooser = random.Random(f"{self._seed}/question/{name}")  # noqa: S311
        return f"What does it say about {chooser.choice(_WORDS)} and {chooser.choice(_WORDS)}?"

    def opening(self, variant: str) -> Message:
        """Return the system message of one variant of a conversation.

        Its first words differ from every other variant's, so that no two variants share a block; its length does not.
        """
        chooser = random.Random(f"{self._seed}/opening/{variant}")  # noqa: S311
        mark = "".join(chooser.choice("0123456789") for _ in range(16))
        return {"role": "system", "content": f"{mark} Answer briefly."}


def read_documents(path: Path) -> list[str]:
    """Return the contexts' texts of MTRAG-UN tasks, one JSON object per line.

    Raises:
        ValueError: the file cannot be read, or a line is not a task; names it.
    """
    found: dict[str, None] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, task in _tasks(lines):
                for context in task.get("contexts", ()):
                    text = context.get("text") if isinstance(context, dict) else None
                    if not isinstance(text, str):
                        raise ValueError(f"{path}:{number}: a context without a text")
                    found[" ".join(text.split()[:MAX_DOCUMENT_WORDS])] = None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    documents = [text for text in found if text]
    if not documents:
        raise ValueError(f"{path} has no documents")
    return documents


def _tasks(lines: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if number > MAX_TASKS:
            return
        if len(line) > MAX_TASK_BYTES:
            raise ValueError(f"line {number} is longer than {MAX_TASK_BYTES} bytes")
        if line.strip():
            try:
                task = json.loads(line)
            except ValueError:
                raise ValueError(f"line {number} is not JSON") from None
            if not isinstance(task, dict):
                raise ValueError(f"line {number} is not an object")
            yield number, task
