"""Random messages for a running gRPC server: ``python -m support.grpc_fuzz --port 9000 --messages 20000``.

Bytes without a meaning, and messages that were valid before bytes of them were changed, taken out or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from aloraserve.v1 import adapters_pb2, chat_pb2, completion_pb2, intrinsics_pb2
from aloraserve.wire.protobuf import message_of

TIMEOUT_S = 30.0
AT_ONCE = 32
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "x", "tool_call_id": "c"}],
    "max_tokens": 2,
    "temperature": 0.5,
    "stop": ["a", "b"],
    "logit_bias": {1: 2.0},
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "documents": [{"title": "t", "text": "x"}],
    "response_format": {"type": "json_object"},
    "chat_template_kwargs": {"a": [1, {"b": None}]},
    "guard": [{"name": "g", "threshold": 0.5}],
    "unknown": 1,
}
SEEDS: dict[str, list[Message]] = {
    "Inference/Chat": [message_of(chat_pb2.ChatRequest, CHAT)],
    "Inference/ChatStream": [message_of(chat_pb2.ChatRequest, CHAT)],
    "Inference/Complete": [
        message_of(
            completion_pb2.CompleteRequest, {"model": "m", "prompt": ["a", [1, 2]], "max_tokens": 2, "echo": True}
        )
    ],
    "Inference/CompleteStream": [
        message_of(
            completion_pb2.CompleteRequest, {"model": "m", "prompt": [[1, 2, 3]], "max_tokens": 2, "logprobs": 1}
        )
    ],
    "Intrinsics/Run": [
        message_of(
            intrinsics_pb2.RunRequest,
            {"messages": CHAT["messages"], "intrinsics": [{"name": "x", "fields": {"a": "b"}}], "timeout_s": 1.0},
        )
    ],
    "Adapters/Check": [adapters_pb2.CheckRequest(name="a", source="file:///nowhere")],
    "Adapters/Get": [adapters_pb2.GetRequest(reference="safety")],
    "Adapters/List": [adapters_pb2.ListRequest(prefix="a", labels={"a": "b"}, limit=3)],
    "Adapters/SetAlias": [adapters_pb2.SetAliasRequest(name="nobody", alias="x", target="y", share=0.5)],
    "Adapters/Rollback": [adapters_pb2.RollbackRequest(name="nobody", alias="x", reason="r")],
    "Adapters/Retire": [adapters_pb2.RetireRequest(reference="nobody")],
}


def messages(count: int, seed: int, model: str) -> Iterator[tuple[str, bytes]]:
    """Yield names of methods with bytes for them; equal seeds give equal ones."""
    chance = random.Random(seed)
    names = list(SEEDS)
    for _ in range(count):
        name = chance.choice(names)
        valid = chance.choice(SEEDS[name])
        if hasattr(valid, "model") and chance.random() < 0.5:
            valid.model = model
        raw = valid.SerializeToString()
        yield name, chance.randbytes(chance.randrange(200)) if chance.random() < 0.2 else changed(raw, chance)


def changed(raw: bytes, chance: random.Random) -> bytes:
    """Return bytes with some of them changed."""
    content = bytearray(raw)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(content) + 1)
        kind = chance.randrange(4)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[at:at] = chance.randbytes(chance.randrange(1, 8))
        elif kind == 2:
            del content[at : at + chance.randrange(1, 8)]
        else:
            content[at:at] = content[chance.randrange(len(content) + 1) :][:40]
    return bytes(content)


async def play(port: int, count: int, seed: int, model: str) -> collections.Counter[str]:
    """Send messages; return how many calls came to each status. An answer that does not come counts as a hang."""
    found: collections.Counter[str] = collections.Counter()
    todo = messages(count, seed, model)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def call() -> None:
            for name, raw in todo:
                found[await _status(channel, f"/aloraserve.v1.{name}", raw)] += 1

        await asyncio.gather(*(call() for _ in range(AT_ONCE)))
    return found


async def _status(channel: Any, method: str, raw: bytes) -> str:
    try:
        if method.endswith("Stream"):
            async for _ in channel.unary_stream(method)(raw, timeout=TIMEOUT_S):
                pass
        else:
            await channel.unary_unary(method)(raw, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def main() -> None:
    """Play, and print what the calls came to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    given = parser.parse_args()
    began = time.monotonic()
    found = asyncio.run(play(given.port, given.messages, given.seed, given.model))
    print(dict(found), f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
