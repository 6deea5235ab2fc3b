"""Answers of the base model in which it invokes adapters itself (arXiv 2504.12397, section 2.1).

The base model generates. Once it has written an adapter's invocation its call ends there, and the answer goes on as a
call of that adapter, whose prompt is everything so far: the base model's KV blocks are found, as in any aLoRA call.
When the adapter has ended the base model goes on. Each part is a call of its own, with a receipt of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from aloraserve.serving.attempt import LostError
from aloraserve.serving.attempts import MAX_ATTEMPTS, Dispatcher
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.invocation_finder import NOTHING, InvocationFinder
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.spoken_part import SpokenPart

MAX_INVOCATIONS = 4
"""Of one answer; what the base model writes after that invokes nothing."""


class SelfInvocation:
    """One answer in parts: an asynchronous iterator of all its chunks. Closing it aborts the part that runs.

    Args:
        dispatcher: has each part answered.
        prompts: makes the requests of the parts.
        request: of the first part, for the base model.
        finder: of the invocations that count.

    Attributes:
        first: the base model's first part, once it has begun.
    """

    first: Generation

    def __init__(
        self, dispatcher: Dispatcher, prompts: PromptBuilder, request: GenerationRequest, finder: InvocationFinder
    ) -> None:
        self._dispatcher = dispatcher
        self._prompts = prompts
        self._request = replace(request, is_streamed=True, shows_tokens=True)
        self._is_streamed = request.is_streamed
        self._finder = finder
        self._token_ids = list(request.token_ids)
        self._left = request.sampling.max_tokens or 0
        self._parts = 0
        self._invocations = 0
        self._generation: Generation | None = None
        self._chunks = self._all_chunks()

    async def begin(self) -> SelfInvocation:
        """Return this once the first part has its first chunk; raises like the dispatcher."""
        self.first = await self._begin(self._request)
        return self

    @property
    def is_ready(self) -> bool:
        """Whether the next chunk can be had without waiting."""
        return self._generation is not None and self._is_streamed and self._generation.is_ready

    def __aiter__(self) -> SelfInvocation:
        return self

    async def __anext__(self) -> EngineChunk:
        """Return the next chunk.

        Raises:
            AloraserveError: a part could not begin, or was lost.
        """
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Abort the part that runs, if any."""
        await self._chunks.aclose()
        if self._generation is not None:
            await self._generation.aclose()

    async def _all_chunks(self) -> AsyncGenerator[EngineChunk]:
        part: SpokenPart | None = SpokenPart(self._request, self._finder, self._prompts.decode)
        generation = self.first
        while part is not None:
            chunks = self._spoken(part, generation) if self._is_streamed else self._kept(part, generation)
            async for chunk in chunks:
                yield chunk
            part = self._next_part(part)
            if part is not None:
                generation = await self._begin(part.request)

    async def _spoken(self, part: SpokenPart, generation: Generation) -> AsyncGenerator[EngineChunk]:
        """Yield a part's chunks as they come; the last of an answer has its reason, those of other parts have none."""
        async for chunk in generation:
            heard = part.hear(chunk)
            self._left -= heard.tokens
            if part.is_over:
                self._generation = None
                await generation.aclose()
            yield heard if self._goes_on(part) or not part.is_over else replace(heard, finish_reason=self._reason(part))
            if part.is_over:
                return

    async def _kept(self, part: SpokenPart, generation: Generation) -> AsyncGenerator[EngineChunk]:
        """Yield a part's chunks once it is over: nobody has seen them before, so a lost replica costs time alone."""
        left = self._left
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                chunks = [chunk async for chunk in self._spoken(part, generation)]
            except LostError:
                if attempt == MAX_ATTEMPTS:
                    raise
                self._left = left
                part.forget()
                generation = await self._begin(part.request)
                continue
            for chunk in chunks:
                yield chunk
            return

    def _goes_on(self, part: SpokenPart) -> bool:
        return part.is_over and part.hands_over and self._left > 0

    def _reason(self, part: SpokenPart) -> str | None:
        return "length" if part.hands_over else part.finish_reason

    def _next_part(self, part: SpokenPart) -> SpokenPart | None:
        """Return the part that follows one that is over, None at the answer's end."""
        if not self._goes_on(part):
            return None
        self._token_ids += part.token_ids
        self._parts += 1
        self._invocations += part.invoked is not None
        request = self._prompts.continued(
            self._request, self._token_ids, part.invoked, number=self._parts, max_tokens=self._left
        )
        finder = self._finder if self._invocations < MAX_INVOCATIONS else NOTHING
        return SpokenPart(request, finder, self._prompts.decode)

    async def _begin(self, request: GenerationRequest) -> Generation:
        self._generation = await self._dispatcher.generate(request)
        return self._generation
