"""Before a replica's first call: its events arrive, its speed is known, and its cache is empty again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable

from aloraserve.directory.mirror import Mirror
from aloraserve.engine_model.warm_up import WARM_UP_ANSWER, WARM_UP_PROMPTS
from aloraserve.errors import StartError
from aloraserve.serving.engine_messages import EngineCall, EngineReply
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.gaps import EmptyCache

WARM_UP_TRIES = 20
EVENTS_WITHIN_S = 1.0
"""How long the events of one prompt, or of a reset, are waited for."""


class WarmUp:
    """Runs prompts until their events arrive and the engine's speed is known, then has them forgotten.

    A subscription takes a moment to reach the publisher, and events before it are lost: the reset afterwards makes the
    mirror and the engine agree. The engine publishes events after a step alone, so a prompt too short for a block
    follows the reset.

    Args:
        generate: answers a call.
        empty_cache: empties the engine's cache.
        mirror: where its events end up.
        max_model_tokens: of prompt and answer together.
        events_within_s: see :data:`EVENTS_WITHIN_S`.
    """

    def __init__(
        self,
        generate: Callable[[EngineCall], AsyncIterator[EngineReply]],
        empty_cache: EmptyCache,
        mirror: Mirror,
        *,
        max_model_tokens: int,
        events_within_s: float = EVENTS_WITHIN_S,
    ) -> None:
        self._generate = generate
        self._empty_cache = empty_cache
        self._mirror = mirror
        self._max_prompt_tokens = max_model_tokens - WARM_UP_ANSWER
        self._events_within_s = events_within_s

    async def run(self) -> None:
        """Warm up.

        Raises:
            StartError: the engine's events do not arrive, or its cache cannot be emptied.
        """
        await self._see_events()
        await self._forget()

    async def _see_events(self) -> None:
        for number in range(WARM_UP_TRIES):
            await self._answer(WARM_UP_PROMPTS[number % len(WARM_UP_PROMPTS)], WARM_UP_ANSWER)
            if await self._until(lambda: len(self._mirror) > 0) and number + 1 >= len(WARM_UP_PROMPTS):
                return
        raise StartError(f"the engine's KV events do not arrive or cannot be placed: {self._mirror.drops}")

    async def _forget(self) -> None:
        for _ in range(WARM_UP_TRIES):
            await self._empty_cache()
            await self._answer(4, 1)
            if await self._until(lambda: len(self._mirror) == 0):
                return
        raise StartError(f"the engine's prefix cache cannot be emptied: {len(self._mirror)} blocks are left")

    async def _answer(self, prompt_tokens: int, tokens: int) -> None:
        length = min(prompt_tokens, self._max_prompt_tokens)
        prompt = [random.randrange(16, 1024) for _ in range(length)]  # noqa: S311
        sampling = SamplingSettings(max_tokens=tokens, temperature=0, ignore_eos=True)
        call = EngineCall(f"warm-up-{uuid.uuid4().hex}", prompt, sampling)
        async for _ in self._generate(call):
            pass

    async def _until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; return whether it came to hold."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._events_within_s):
                while not condition():  # noqa: ASYNC110 - the mirror is plain data that notifies nobody
                    await asyncio.sleep(0.01)
        return condition()
