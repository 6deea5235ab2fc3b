"""A trace's rows as conversations: equal block ids are equal text."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.simulation.trace import ID_TOKENS, GeneratedTrace, read_trace
from loadtests.plan import LoadPlan
from loadtests.texts import Message, TextSource


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One base call of a trace.

    Args:
        arrival_s: since the trace's start.
        input_tokens: length of the prompt.
        ids: of each 512 tokens of it.
    """

    arrival_s: float
    input_tokens: int
    ids: tuple[int, ...]

    def messages(self, texts: TextSource, words_per_token: float, max_tokens: int) -> list[Message]:
        """Return a prompt of about the row's length: rows that share leading ids share leading text."""
        left = min(self.input_tokens, max_tokens)
        parts = []
        for block_id in self.ids:
            if left <= 0:
                break
            # A whole block's text always, so that a shared id is shared text; only the last is cut.
            words = round(min(ID_TOKENS, left) * words_per_token)
            parts.append(" ".join(texts.document(f"id-{block_id}", round(ID_TOKENS * words_per_token)).split()[:words]))
            left -= ID_TOKENS
        return [{"role": "user", "content": " ".join(parts)}]


def conversation_rows(plan: LoadPlan) -> list[ReplayRow]:
    """Return the trace's first rows, generated ones if the plan has no file.

    Raises:
        SettingsError: the file is not a trace.
    """
    if plan.trace is None:
        rows = GeneratedTrace().rows(plan.trace_rows, plan.seed)
    else:
        rows = read_trace(plan.trace, limit=plan.trace_rows)
    first_s = rows[0].arrival_s
    return [ReplayRow(row.arrival_s - first_s, row.input_tokens, row.ids) for row in rows]
