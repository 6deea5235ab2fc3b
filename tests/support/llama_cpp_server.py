"""llama.cpp's server over exported files, in a process of its own: a fault in it ends no test run."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

IS_INSTALLED = importlib.util.find_spec("xllamacpp") is not None
CONTEXT_TOKENS = 1024
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class LlamaCpp:
    """A running server with one slot, whose answers are greedy.

    Args:
        client: of its API.
        adapters: names of the loaded ones, in the order of their ids.
    """

    client: httpx.Client
    adapters: Sequence[str]

    def answer(
        self, prompt: list[int], adapter: str | None = None, *, max_tokens: int = 3, reuses: bool = False
    ) -> dict[str, Any]:
        """Return an answer's token ids, its log-probabilities, and how many of the prompt's tokens were reused.

        Args:
            prompt: token ids.
            adapter: to answer with; None is the base model.
            max_tokens: of the answer.
            reuses: whether what the slot still holds may be reused.
        """
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0.0,
            "n_probs": 1,
            "return_tokens": True,
            "cache_prompt": reuses,
            "lora": [{"id": self.adapters.index(adapter), "scale": 1.0}] if adapter else [],
        }
        said = self.post("/completion", body)
        return {
            "tokens": said["tokens"],
            "logprobs": [entry["logprob"] for entry in said["completion_probabilities"]],
            "reused": said["timings"]["cache_n"],
        }

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, special ones included."""
        found: list[int] = self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})[
            "tokens"
        ]
        return found

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that the server answers with."""
        return self.client.post(path, json=body).raise_for_status().json()


@contextlib.contextmanager
def llama_cpp(folder: Path, base: str, adapters: Sequence[str]) -> Iterator[LlamaCpp]:
    """Run a server over a folder of exported files.

    Args:
        folder: with the GGUF files.
        base: name of the base model.
        adapters: names of those to load.
    """
    command = [sys.executable, __file__, str(folder), base, *adapters]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, httpx.Client(timeout=TIMEOUT_S) as client:
        try:
            client.base_url = process.stdout.readline().strip()
            yield LlamaCpp(client, adapters)
        finally:
            # The server ends with its input.
            process.stdin.close()


def _serve(folder: Path, base: str, adapters: Sequence[str]) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(folder / f"{base}.gguf")
    # Of scale 0 a request without an adapter has none.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(folder / f"{name}.gguf"), 0.0) for name in adapters]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = CONTEXT_TOKENS, 1, 0
    # Threads that wait for each other crawl where other processes run.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.cache_ram_mib, params.verbosity, params.port = False, 0, 0, 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
