"""How an answer's tokens come in, as the gateway sees them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve_services.gateway.metrics import METRICS
from aloraserve_services.gateway.request_context import current_request


class MeteredChunks:
    """An answer's chunks, timed as they pass; closing it closes their source, also before anything was read.

    Args:
        chunks: of one answer.
        kind: of the call: base, lora or alora.
        adapter: its name, None for the base model.
    """

    def __init__(self, chunks: AsyncIterator[EngineChunk], kind: str, adapter: str | None) -> None:
        self._chunks = chunks
        self._labels = (kind, METRICS.adapters.label(adapter))
        self._itl = METRICS.itl.labels(kind)
        self._started_at = current_request().started_at
        self._last_at = 0.0
        self._tokens = 0

    def __aiter__(self) -> MeteredChunks:
        return self

    async def __anext__(self) -> EngineChunk:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._end()
            raise
        self._note(chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the source, which aborts what is still being generated."""
        await cast("AsyncGenerator[EngineChunk]", self._chunks).aclose()

    def _note(self, chunk: EngineChunk) -> None:
        self._tokens += chunk.tokens
        if chunk.index or not chunk.tokens:
            return
        now = time.perf_counter()
        if self._last_at:
            # A chunk of several tokens is as many gaps; one observation of their mean is enough.
            self._itl.observe((now - self._last_at) / chunk.tokens)
        self._last_at = now

    def _end(self) -> None:
        METRICS.e2e.labels(*self._labels).observe(time.perf_counter() - self._started_at)
        METRICS.generated_tokens.labels(*self._labels).inc(self._tokens)
