"""The answer that is the arguments of one function, which the client has named."""

from __future__ import annotations

from aloraserve.serving.tools.base import CallDelta, Heard, new_call_id


class NamedCall:
    """Reads one answer; see :class:`~aloraserve.serving.tools.base.ToolReader`.

    Args:
        name: of the function.
    """

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def hear(self, text: str) -> Heard:
        """See the contract."""
        if not text:
            return Heard()
        if self._name is None:
            return Heard(calls=(CallDelta(0, text),))
        name, self._name = self._name, None
        return Heard(calls=(CallDelta(0, text, new_call_id(), name),))

    def end(self) -> Heard:
        """See the contract."""
        return Heard()
