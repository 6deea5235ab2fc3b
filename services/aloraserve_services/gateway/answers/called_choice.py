"""One choice of a chat's answer whose calls of functions are read out of its text, as it comes."""

from __future__ import annotations

from dataclasses import dataclass, field

from aloraserve.serving.tools import CallDelta, Heard, ToolUse
from aloraserve.wire.chat_answers import MessageFunction, MessageToolCall
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.tools import CalledFunction, ToolCall


@dataclass(slots=True)
class ReadCall:
    """A call as far as it was read.

    Args:
        id: of the call.
        name: of the function.
        pieces: of the arguments' JSON.
    """

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The arguments' JSON so far."""
        return "".join(self.pieces)


class CalledChoice:
    """Reads a choice.

    Args:
        tool_use: that the chat asks for.

    Attributes:
        calls: that were read.
    """

    def __init__(self, tool_use: ToolUse) -> None:
        self._tool_use = tool_use
        self._reader = tool_use.reader()
        self._texts: list[str] = []
        self.calls: list[ReadCall] = []

    @property
    def text(self) -> str:
        """What the choice has beside its calls."""
        return "".join(self._texts)

    def hear(self, text: str, finish_reason: str | None) -> Heard:
        """Return what more of the choice adds.

        Args:
            text: generated.
            finish_reason: the engine's, at the choice's end.
        """
        heard = self._reader.hear(text)
        if finish_reason is not None:
            rest = self._reader.end()
            heard = Heard(heard.text + rest.text, heard.calls + rest.calls)
        self._texts.append(heard.text)
        for call in heard.calls:
            self._add(call)
        return heard

    def reason(self, finish_reason: str) -> str:
        """Return why the choice ended, as a client is to see it."""
        return self._tool_use.finish_reason if self.calls and finish_reason == "stop" else finish_reason

    def tool_calls(self) -> list[MessageToolCall]:
        """Return the calls as answers have them."""
        return [
            MessageToolCall(id=call.id, function=MessageFunction(name=call.name, arguments=call.arguments))
            for call in self.calls
        ]

    def message(self) -> ChatMessage:
        """Return the choice as a message of a conversation that goes on."""
        calls = [_call_of(call) for call in self.calls]
        return ChatMessage(role="assistant", content=self.text, tool_calls=calls or None)

    def _add(self, call: CallDelta) -> None:
        if call.id is not None and call.name is not None:
            self.calls.append(ReadCall(call.id, call.name))
        self.calls[call.index].pieces.append(call.arguments)


def _call_of(call: ReadCall) -> ToolCall:
    return ToolCall(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))
