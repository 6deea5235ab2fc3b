"""The output of a response as it grows: items one after the other, and the events that say so."""

from __future__ import annotations

from typing import Any

from aloraserve.serving.tools import CallDelta, Heard
from aloraserve.wire.response_answers import ItemStatus, OutputCall, OutputItem, OutputMessage, OutputText

Event = dict[str, Any]


class ResponseOutput:
    """Collects what a response says and calls.

    Args:
        request_id: becomes part of its items' ids.

    Attributes:
        items: that are finished.
    """

    def __init__(self, request_id: str) -> None:
        self.items: list[OutputItem] = []
        self._request_id = request_id
        self._texts: list[str] | None = None
        """Of the message that is open."""
        self._logprobs: list[dict[str, Any]] = []
        self._unsaid: list[dict[str, Any]] = []
        """Log-probabilities of tokens whose text is not known yet."""
        self._call: OutputCall | None = None
        """That is open, without its arguments."""
        self._arguments: list[str] = []

    def add(self, heard: Heard, logprobs: list[dict[str, Any]]) -> list[Event]:
        """Return the events of what was heard.

        Args:
            heard: text and calls.
            logprobs: of the tokens.
        """
        self._unsaid += logprobs
        events = self._add_text(heard.text) if heard.text else []
        for call in heard.calls:
            events += self._add_call(call)
        return events

    def end(self, *, is_whole: bool) -> list[Event]:
        """Return the events of the output's end; one without any item is an empty message.

        Args:
            is_whole: whether the model ended it.
        """
        events = [] if self.items or self._call is not None or self._texts is not None else self._open_message()
        return events + self._close("completed" if is_whole else "incomplete")

    def _add_text(self, text: str) -> list[Event]:
        events = [] if self._texts is not None else [*self._close("completed"), *self._open_message()]
        assert self._texts is not None
        self._texts.append(text)
        said, self._unsaid = self._unsaid, []
        self._logprobs += said
        return [*events, self._part_event("response.output_text.delta", delta=text, logprobs=said)]

    def _add_call(self, call: CallDelta) -> list[Event]:
        events: list[Event] = []
        if call.id is not None:
            events = self._close("completed")
            self._call = OutputCall(
                id=f"fc_{self._request_id}_{call.id}",
                status="in_progress",
                call_id=call.id,
                name=call.name or "",
                arguments="",
            )
            self._arguments = []
            events.append(self._item_event("response.output_item.added", self._call))
        if call.arguments:
            self._arguments.append(call.arguments)
            events.append(self._call_event("response.function_call_arguments.delta", delta=call.arguments))
        return events

    def _open_message(self) -> list[Event]:
        self._texts, self._logprobs = [], []
        return [
            self._item_event("response.output_item.added", self._message("in_progress", [])),
            self._part_event("response.content_part.added", part=OutputText(text="").model_dump()),
        ]

    def _close(self, status: ItemStatus) -> list[Event]:
        """Finish the item that is open, if there is one."""
        if self._texts is not None:
            return self._close_message(status)
        return [] if self._call is None else self._close_call(self._call, status)

    def _close_message(self, status: ItemStatus) -> list[Event]:
        part = OutputText(text="".join(self._texts or ()), logprobs=self._logprobs)
        message = self._message(status, [part])
        events = [
            self._part_event("response.output_text.done", text=part.text, logprobs=part.logprobs),
            self._part_event("response.content_part.done", part=part.model_dump()),
            self._item_event("response.output_item.done", message),
        ]
        self._texts = None
        self.items.append(message)
        return events

    def _close_call(self, call: OutputCall, status: ItemStatus) -> list[Event]:
        arguments = "".join(self._arguments)
        done = call.model_copy(update={"status": status, "arguments": arguments})
        events = [
            self._call_event("response.function_call_arguments.done", arguments=arguments, name=call.name),
            self._item_event("response.output_item.done", done),
        ]
        self._call = None
        self.items.append(done)
        return events

    def _message(self, status: ItemStatus, content: list[OutputText]) -> OutputMessage:
        return OutputMessage(id=self._message_id, status=status, content=content)

    @property
    def _message_id(self) -> str:
        return f"msg_{self._request_id}_{len(self.items)}"

    def _item_event(self, kind: str, item: OutputItem) -> Event:
        return {"type": kind, "output_index": len(self.items), "item": item.model_dump()}

    def _part_event(self, kind: str, **fields: Any) -> Event:
        place = {"item_id": self._message_id, "output_index": len(self.items), "content_index": 0}
        return {"type": kind, **place, **fields}

    def _call_event(self, kind: str, **fields: Any) -> Event:
        assert self._call is not None
        return {"type": kind, "item_id": self._call.id, "output_index": len(self.items), **fields}
