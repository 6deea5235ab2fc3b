"""What a replica's calls had most of lately, and the same prefilled on another replica before it is needed there."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from aloraserve.blocks import AdapterEffect, BlockKey, KeySpace, activation_point
from aloraserve.routing.fair_share import MAX_PRIORITY, NO_TENANT, TenantShare
from aloraserve.scaling.handover import REST, parts
from aloraserve.scaling.hot_blocks import PrefixSource
from aloraserve.scaling.hot_prefixes import MAX_SENT, MAX_SENT_TOKENS, HotPrefix, HotPrefixes
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.adapters import EngineAdapters

MAX_NOTED = 64
"""Prompts that are taken in at a time; further ones are passed over."""
FORGET_S = 30.0
"""Between two looks at what had too few hits."""
LAST = TenantShare(tenant_priority=MAX_PRIORITY)
"""Of a prefill that no client waits for: calls come first."""
ONE_TOKEN = SamplingSettings(max_tokens=1, temperature=0, ignore_eos=True)


class Prefilled(NamedTuple):
    """What became of prefixes that were to be prefilled.

    Args:
        prefixes: that are there now.
        tokens: of those, that were not there before.
        seconds: that it took.
    """

    prefixes: int
    tokens: int
    seconds: float


class Warmth:
    """Remembers a replica's hot prefixes, and prefills those of others.

    Args:
        generate: answers a call of this replica.
        adapters: versions that its engine can run.
        keyspace: of the fleet.
        is_kept: whether prompts are remembered; without it there is nothing for others.
    """

    def __init__(
        self,
        generate: Callable[[EngineCall], AsyncGenerator[EngineReply]],
        adapters: EngineAdapters,
        keyspace: KeySpace,
        *,
        is_kept: bool = True,
    ) -> None:
        self._generate = generate
        self._adapters = adapters
        self._keyspace = keyspace
        self._hot = HotPrefixes(keyspace.block_tokens)
        self._is_kept = is_kept
        self._noted = 0
        self._own_calls: set[str] = set()

    @property
    def block_tokens(self) -> int:
        """Tokens per block."""
        return self._keyspace.block_tokens

    def note(self, call: EngineCall) -> None:
        """Remember the prompt of a call that has its first token: what ends an engine is never sent to another one."""
        if self._is_kept and call.keys and self._noted < MAX_NOTED:
            # Its adapter is loaded now; the client does not wait for the rest.
            self._take_in(self._hot.note(call.token_ids, call.keys, self._source(call)))

    def is_own(self, call: EngineCall) -> bool:
        """Return whether a call is a prefill for a prefix: nobody's, so that it counts in nothing."""
        return call.request_id in self._own_calls

    async def forget(self) -> None:
        """Forget what had too few hits, until cancelled."""
        while True:
            has_more = self._hot.forget()
            await asyncio.sleep(0 if has_more else FORGET_S)

    async def hottest(self) -> list[HotPrefix]:
        """Return the hottest prefixes, of each tenant the hottest first."""
        return await asyncio.to_thread(self._hot.hottest, MAX_SENT_TOKENS, MAX_SENT)

    def latest(self) -> Iterator[HotPrefix]:
        """Yield the prompts of the last calls, of each tenant the latest first; on any thread."""
        return self._hot.latest()

    def keys(self, prefix: HotPrefix) -> list[BlockKey]:
        """Return the block keys of one of them; an empty list if it was forgotten since."""
        return self._hot.keys(prefix)

    async def prefill(
        self, prefixes: Sequence[HotPrefix], budget_s: float, max_tokens: int, *, in_parts: bool = False
    ) -> Prefilled:
        """Have the engine compute prefixes in their order, until it has all or a bound is reached.

        A prefix that cannot be had here (its adapter is not served, its keys would be others) is passed over.

        Args:
            prefixes: hottest first.
            budget_s: seconds; what is under way at their end is given up.
            max_tokens: to be computed; the last prefix may go beyond.
            in_parts: of the base model's prefixes, with a rest after each, as calls run beside them.
        """
        begun_at = time.monotonic()
        done = computed = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_s):
                for prefix in prefixes:
                    if computed >= max_tokens:
                        break
                    if (tokens := await self._prefill(prefix, in_parts=in_parts)) is not None:
                        done += 1
                        computed += tokens
        return Prefilled(done, computed, time.monotonic() - begun_at)

    async def _prefill(self, prefix: HotPrefix, *, in_parts: bool) -> int | None:
        """Return how many tokens were computed, None if the prefix cannot be had here."""
        if prefix.adapter is None:
            return await self._answer(prefix, None, in_parts=in_parts)
        if await self._adapters.hold(prefix.adapter) is not None:
            return None
        try:
            invocation = self._adapters.invocation_ids(prefix.adapter)
            start = activation_point(prefix.token_ids, invocation) if invocation else 0
            if start is None:
                return None
            return await self._answer(prefix, AdapterEffect(prefix.adapter.name, prefix.adapter.digest, start))
        finally:
            self._adapters.release(prefix.adapter)

    async def _answer(self, prefix: HotPrefix, effect: AdapterEffect | None, *, in_parts: bool = False) -> int | None:
        keys = self._keyspace.keys(
            prefix.token_ids, cache_salt=prefix.cache_salt, adapter=effect, public_blocks=prefix.public_blocks
        )
        if keys[-1:] != [prefix.tip]:
            return None
        return await (self._compute_parts if in_parts else self._compute)(prefix, keys)

    async def _compute_parts(self, prefix: HotPrefix, keys: Sequence[BlockKey]) -> int | None:
        computed = 0
        for end in parts(len(keys), self._keyspace.block_tokens, prefix.known_blocks):
            begun_at = time.monotonic()
            token_ids = prefix.token_ids[: end * self._keyspace.block_tokens]
            part = replace(prefix, token_ids=token_ids, public_blocks=min(prefix.public_blocks, end))
            tokens = await self._compute(part, keys[:end])
            if tokens is None:
                return None
            computed += tokens
            await asyncio.sleep(REST * (time.monotonic() - begun_at))
        return computed

    async def _compute(self, prefix: HotPrefix, keys: Sequence[BlockKey]) -> int | None:
        token_ids = list(prefix.token_ids)
        call = EngineCall(
            f"warm-{uuid.uuid4().hex}",
            token_ids,
            ONE_TOKEN,
            adapter=prefix.adapter,
            cache_salt=prefix.cache_salt,
            keys=keys,
            share=LAST,
            public_blocks=prefix.public_blocks,
        )
        self._own_calls.add(call.request_id)
        try:
            async with contextlib.aclosing(self._generate(call)) as replies:
                async for reply in replies:
                    if isinstance(reply, EngineChunk):
                        self._keep(prefix, call)
                        return len(token_ids) - reply.cached_tokens
            return None
        finally:
            self._own_calls.discard(call.request_id)

    def _keep(self, prefix: HotPrefix, call: EngineCall) -> None:
        if self._is_kept:
            source = replace(self._source(call), weight=prefix.weight)
            self._take_in(self._hot.note(call.token_ids, call.keys, source, prefix.heat, prefix.age_s))

    def _take_in(self, steps: Iterator[None]) -> None:
        """Take in a prompt, between what else the loop does."""
        self._noted += 1
        loop = asyncio.get_running_loop()

        def step() -> None:
            is_done = True
            try:
                is_done = bool(next(steps, True))
            finally:
                if is_done:
                    self._noted -= 1
                else:
                    loop.call_soon(step)

        loop.call_soon(step)

    def _source(self, call: EngineCall) -> PrefixSource:
        weight = (call.share or NO_TENANT).weight
        if call.adapter is None:
            return PrefixSource(call.cache_salt, call.public_blocks, weight=weight)
        invocation = self._adapters.invocation_ids(call.adapter)
        start = (activation_point(call.token_ids, invocation) if invocation else 0) or 0
        base_blocks = start // self._keyspace.block_tokens
        return PrefixSource(call.cache_salt, call.public_blocks, call.adapter, base_blocks, weight)
