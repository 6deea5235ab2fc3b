"""Parts of the events of a streamed answer, and what both kinds of answers write alike."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import msgspec

from aloraserve.serving.engine_messages import TokenLogprob, TokenLogprobs
from aloraserve.serving.tools import CallDelta, Heard
from aloraserve.wire.responses import PromptLogprob

FinishReason = Literal["stop", "length"]
Part = TypeVar("Part")

LEAST_LOGPROB = -9999.0
"""What stands for an impossible token, as in OpenAI's API: JSON has no infinity."""

_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")
"""They stand in strings alone, so the text is the same."""
_NOTHING: Mapping[str, object] = {}

encode = msgspec.json.Encoder().encode


def sse_event(data: bytes) -> bytes:
    """Return JSON as a server-sent event."""
    return b"data: " + without_odd_line_ends(data) + b"\n\n"


def without_odd_line_ends(events: bytes) -> bytes:
    """Return events in which JSON escapes what Python's ``splitlines`` takes for the end of a line, as clients do."""
    if events.isascii():
        return events
    for raw, escaped in _LINE_ENDS:
        events = events.replace(raw, escaped)
    return events


DONE = sse_event(b"[DONE]")
"""The last event of a stream that has OpenAI's form."""


@functools.cache
def plain_endings(after_text: bytes) -> Mapping[str | None, bytes]:
    """Return what stands after the text where no log-probabilities were asked for, by the reason of the end."""
    reasons: tuple[FinishReason | None, ...] = (None, "stop", "length")
    return {reason: after_text + choice_ending(b"null", reason) for reason in reasons}


def choice_ending(
    logprobs: bytes,
    finish_reason: str | None,
    in_choice: Mapping[str, object] = _NOTHING,
    beside: Mapping[str, object] = _NOTHING,
) -> bytes:
    """Return what stands in an event after the text of its one choice.

    Args:
        logprobs: as JSON.
        finish_reason: of the choice.
        in_choice: more fields of it.
        beside: more fields of the event.
    """
    ending = b',"logprobs":' + logprobs + b',"finish_reason":' + encode(finish_reason)
    return ending + _fields(in_choice) + b"}]" + _fields(beside) + b"}\n\n"


def _fields(fields: Mapping[str, object]) -> bytes:
    return b"," + encode(fields)[1:-1] if fields else b""


def top_logprob(token: TokenLogprob) -> dict[str, object]:
    """Return a token as chats show it."""
    return {"token": token.token, "logprob": finite(token), "bytes": token.utf8}


def finite(token: TokenLogprob) -> float | None:
    """Return a log-probability that JSON can have, None for none."""
    return None if math.isnan(token.logprob) else max(LEAST_LOGPROB, token.logprob)


def named_by_ids(logprobs: Sequence[TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    """Return log-probabilities whose tokens are named as vLLM's ``return_tokens_as_token_ids`` does; bytes stay."""
    return tuple(
        TokenLogprobs(_named_by_id(token.chosen), tuple(map(_named_by_id, token.alternatives))) for token in logprobs
    )


def _named_by_id(token: TokenLogprob) -> TokenLogprob:
    return token._replace(token=f"token_id:{token.token_id}", raw=bytes(token.utf8))


def prompt_logprobs(logprobs: Sequence[TokenLogprobs | None]) -> list[dict[int, PromptLogprob] | None]:
    """Return a prompt's log-probabilities in vLLM's shape: each token's own first, then the likeliest ones."""
    return [
        None
        if token is None
        else {
            each.token_id: PromptLogprob(logprob=finite(each) or 0.0, rank=each.rank, decoded_token=each.token)
            for each in (token.chosen, *token.alternatives)
        }
        for token in logprobs
    ]


def reason_of(finish_reason: str | None) -> FinishReason | None:
    """Return an engine's reason of an end in OpenAI's words."""
    if finish_reason is None:
        return None
    return cast(FinishReason, finish_reason if finish_reason in ("stop", "length") else "stop")


def closing_source(source: AsyncIterator[Part]) -> contextlib.aclosing[AsyncGenerator[Part]]:
    """Return a context that closes a source, which aborts what is still being generated."""
    return contextlib.aclosing(cast("AsyncGenerator[Part]", source))


def delta_of(heard: Heard) -> dict[str, Any]:
    """Return what was heard of a choice as a chunk's delta."""
    delta: dict[str, Any] = {"content": heard.text} if heard.text else {}
    return delta | {"tool_calls": list(map(_call_delta, heard.calls))} if heard.calls else delta


def _call_delta(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
