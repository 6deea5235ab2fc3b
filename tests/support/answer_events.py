"""Events of streamed answers, as clients read them."""

from __future__ import annotations

import json
from typing import Any

from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.gateway.answers import Answer
from support.fake_pool import request


def answer_to(
    kind: type[Answer], choices: int = 1, logprobs: bool = False, *, model: str = "safety", **changes: Any
) -> Answer:
    """Return the writer of the answer to a prompt of fifty tokens."""
    sampling = SamplingSettings(max_tokens=4, n=choices, logprobs=0 if logprobs else None)
    return kind([request("r1", token_ids=list(range(50)), model=model, sampling=sampling, **changes)])


def events_of(writes: list[bytes]) -> list[Any]:
    """Return the contents of the events in some writes, after checking their form."""
    assert all(written.startswith(b"data: ") and written.endswith(b"\n\n") for written in writes)
    *events, rest = b"".join(writes).split(b"\n\n")
    assert rest == b""
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    data = [event.removeprefix(b"data: ") for event in events]
    assert data[-1] == b"[DONE]"
    assert b"[DONE]" not in data[:-1]
    return [json.loads(one) for one in data[:-1]]


def text_of(choice: dict[str, Any]) -> str:
    if "message" in choice:
        return choice["message"]["content"]
    return choice["delta"].get("content", "") if "delta" in choice else choice["text"]


def texts(events: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + text_of(choice)
    return found
