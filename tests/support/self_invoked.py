"""An adapter that a base model invokes by itself: its invocation is taken from an answer that the model gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx


def put_invoked_by(source: Path, root: Path, name: str, invocation: Sequence[int], *, max_tokens: int) -> None:
    """Copy an aLoRA with another invocation, and at most so many tokens to generate, into an adapters' folder."""
    staged = root / f".{name}"
    shutil.copytree(source, staged)
    config = json.loads((staged / "adapter_config.json").read_text())
    (staged / "adapter_config.json").write_text(json.dumps(config | {"alora_invocation_tokens": list(invocation)}))
    intrinsic = {"output": {"form": "text"}, "parameters": {"max_tokens": max_tokens}}
    (staged / "aloraserve.json").write_text(json.dumps({"untrained": True, "intrinsic": intrinsic}))
    staged.rename(root / name)


def ask_auto(http: httpx.Client, base: str, messages: Sequence[dict[str, str]], max_tokens: int) -> dict[str, Any]:
    """Return the whole answer of a chat in which the base model may invoke adapters."""
    body = {"model": base, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0, "adapters": "auto"}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    streamed = http.post(
        "/v1/chat/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    whole: dict[str, Any] = answer.json()
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    return whole
