"""Where a conversation's documents stand: beside it, in its system message or before its first question."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve_services.intrinsics.draw import Draw
from aloraserve_services.intrinsics.texts import read_texts

Messages = list[tuple[str, str]]


def grounded(draw: Draw, messages: Messages, texts: Sequence[str]) -> tuple[Messages, tuple[str, ...]]:
    """Return a conversation with its documents, and those that stand beside it.

    Args:
        draw: chooses the place; beside the conversation as often as within it.
        messages: role and content of each, a user's first.
        texts: the documents.
    """
    match draw.pick(["documents", "documents", "system", "user"]):
        case "documents":
            return messages, tuple(texts)
        case "system":
            system = draw.pick(read_texts("documents")["systems"])
            return [("system", "\n".join([system, *texts])), *messages], ()
        case _:
            (role, question), *rest = messages
            return [(role, "\n\n".join([*texts, question])), *rest], ()
