"""One streamed call to the platform, timed as a client sees it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from aloraserve.errors import AloraserveError


class CallFailedError(AloraserveError):
    """Raised when the platform answers a call of the CLI with an error."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What came of a call.

    Args:
        text: the answer.
        ttft_s: from sending the request to the first event of the stream.
        prompt_tokens: of the prompt, the invocation included.
        cached_tokens: of those, not prefilled.
        replica: who answered.
        reason: why.
        saved_s: TTFT saved by reuse across adapters as the platform estimates it, None if it does not.
        savings_confidence: of that estimate, 0 to 1.
    """

    text: str
    ttft_s: float
    prompt_tokens: int
    cached_tokens: int
    replica: str
    reason: str
    saved_s: float | None = None
    savings_confidence: float = 0.0


class TimedClient:
    """Calls the platform over HTTP, one call after the other on one connection.

    Args:
        base_url: of the platform.
        headers: with the API key, if there is one.
        is_elsewhere: the environment's proxy may be needed to reach it.
    """

    def __init__(self, base_url: str, headers: dict[str, str], *, is_elsewhere: bool = False) -> None:
        # A platform on this machine is out of reach of the environment's proxy.
        timeout = httpx.Timeout(600, connect=5)
        self._client = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, trust_env=is_elsewhere)

    def __enter__(self) -> TimedClient:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connection."""
        self._client.close()

    def chat(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> Timed:
        """Make a greedy chat call."""
        return self._call("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": max_tokens})

    def complete(self, model: str, token_ids: list[int], max_tokens: int) -> Timed:
        """Make a greedy completion call with exactly these prompt tokens."""
        return self._call("/v1/completions", {"model": model, "prompt": token_ids, "max_tokens": max_tokens})

    def _call(self, path: str, body: dict[str, Any]) -> Timed:
        try:
            return self._timed(path, body)
        except httpx.HTTPError as error:
            raise CallFailedError(f"{path} failed: {type(error).__name__}: {error}") from error

    def _timed(self, path: str, body: dict[str, Any]) -> Timed:
        body = {**body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        started = time.perf_counter()
        with self._client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                response.read()
                raise CallFailedError(f"{path} answered {response.status_code}: {response.text[:500]}")
            ttft_s: float | None = None
            text, usage = "", dict[str, Any]()
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                ttft_s = time.perf_counter() - started if ttft_s is None else ttft_s
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise CallFailedError(f"{path} was cut short: {event['error']['message']}")
                text += "".join(_added(choice) for choice in event["choices"])
                usage = event.get("usage") or usage
            saved_ms = response.headers.get("x-aloraserve-saved-ttft-ms")
            return Timed(
                text=text,
                ttft_s=ttft_s or 0.0,
                prompt_tokens=usage["prompt_tokens"],
                cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
                replica=response.headers["x-aloraserve-replica"],
                reason=response.headers["x-aloraserve-reason"],
                saved_s=None if saved_ms is None else float(saved_ms) / 1000,
                savings_confidence=float(response.headers.get("x-aloraserve-savings-confidence", 0)),
            )


def _added(choice: dict[str, Any]) -> str:
    return str(choice["delta"].get("content") or "") if "delta" in choice else str(choice["text"])
