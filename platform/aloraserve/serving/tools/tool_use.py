"""The use of tools that a chat asks for."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.serving.tools.base import ToolReader
from aloraserve.serving.tools.formats import ToolFormat
from aloraserve.serving.tools.marked_calls import MarkedCalls
from aloraserve.serving.tools.named_call import NamedCall

_REQUIRED = ToolFormat("required", ())
"""Nothing but a list of calls."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How an answer's calls are read.

    Args:
        names: of the tools.
        form: in which the model writes calls of its own accord; None where the answer has to be calls.
        named: the function that has to be called, whose arguments are the answer.
        is_parallel: whether there may be more than one call.
    """

    names: frozenset[str]
    form: ToolFormat | None = None
    named: str | None = None
    is_parallel: bool = True

    @property
    def finish_reason(self) -> str:
        """What ends an answer with calls; OpenAI's for a function that was named is "stop"."""
        return "stop" if self.named else "tool_calls"

    def reader(self) -> ToolReader:
        """Return what reads one choice's calls."""
        if self.named is not None:
            return NamedCall(self.named)
        limit = None if self.is_parallel else 1
        return MarkedCalls(self.form or _REQUIRED, self.names, max_calls=limit, is_begun=self.form is None)
