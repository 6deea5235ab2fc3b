"""The plugin with plain vLLM, without the platform: an aLoRA call continues from the base model's blocks.

.venv/bin/python examples/plain_vllm.py MODEL ADAPTER [more flags of vLLM's server]
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

STORY = "The ferry leaves at nine from the old pier, and tickets are sold on board. " * 12


def start(model: str, adapter: str, flags: list[str], port: int) -> subprocess.Popen[bytes]:
    """Start vLLM's own server, which finds the plugin by itself; on a GPU build this is ``vllm serve MODEL ...``."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--served-model-name", "base", "--enable-prompt-tokens-details", "--enable-lora"]
    command += ["--max-lora-rank", "64", "--lora-modules", f"judge={adapter}", *flags]
    return subprocess.Popen(command)  # noqa: S603 - the command line's own model and flags


def is_up(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").is_success
    return False


def complete(client: httpx.Client, model: str, prompt: list[int]) -> None:
    """Complete a prompt and print how much of it was found in the cache."""
    reply: Any = client.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 8}).json()
    cached = (reply["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    print(f"{model}: {cached} of {len(prompt)} tokens reused, {reply['choices'][0]['text']!r}")


if __name__ == "__main__":
    model, adapter, *flags = sys.argv[1:]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False)
    server = start(model, adapter, flags, port)
    try:
        while not is_up(client):
            time.sleep(0.5)
            assert server.poll() is None, "the server ended; its last lines say why"
        story = client.post("/tokenize", json={"model": "base", "prompt": STORY}).json()["tokens"]
        invocation = json.loads((Path(adapter) / "adapter_config.json").read_text())["alora_invocation_tokens"]
        complete(client, "base", story)
        complete(client, "judge", story + invocation)
    finally:
        server.terminate()
        server.wait(60)
