"""Runs intrinsics over a conversation, for any edge: all at once, each with its own result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace

import structlog

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.answers import Asked, RawAnswer, interpret
from aloraserve.errors import AloraserveError, DeadlineError, InvalidRequestError
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.generation import Generation
from aloraserve.serving.intrinsics.outcome import CallFacts, GuardVerdict, IntrinsicOutcome
from aloraserve.serving.intrinsics.question import question
from aloraserve.serving.intrinsics.shared_prefix import PrefixWatch, SharedPrefix, grouped
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import Caller
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.fields import FieldError
from aloraserve.wire.intrinsic_items import GuardItem, IntrinsicItem

SHORT_ANSWER_CHARACTERS = 2048
"""An answer up to this length is interpreted on the event loop."""

log = structlog.get_logger(__name__)


class _Item:
    """One intrinsic on its way.

    Args:
        number: of its place in the request.
        name: as it was asked for.
        origin: of its call.
        started: when the request began.
    """

    def __init__(self, number: int, name: str, origin: Origin, started: float) -> None:
        self.number = number
        self.name = name
        self.origin = origin
        self.spec = IntrinsicSpec()
        self.asked = Asked()
        self.request: GenerationRequest | None = None
        self.facts: CallFacts | None = None
        self._is_found = False
        self._started = started

    def find(self, spec: IntrinsicSpec) -> None:
        """Note the intrinsic's spec."""
        self.spec, self._is_found = spec, True

    def outcome(self, *, error: Exception | None = None, answer: RawAnswer | None = None) -> IntrinsicOutcome:
        """Return what became of it: the answer's value, or why there is none."""
        value = None
        if answer is not None:
            try:
                value = interpret(self.spec, answer, self.asked)
            except AloraserveError as unusable:
                error = unusable
        total_s = time.perf_counter() - self._started
        guard = self.spec.guard if self._is_found else None
        return IntrinsicOutcome(self.origin.request_id, self.name, total_s, value, error, self.facts, guard)


class IntrinsicRunner:
    """Runs intrinsics; each is a call of its own, with its own slot, receipt and errors. For one event loop.

    Args:
        prompts: makes requests of bodies.
        dispatcher: has them answered; ``watch`` is one of its observers.
        watch: of shared prefixes.
        slot: returns what a caller's call holds while it is in progress, or raises.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        dispatcher: Dispatcher,
        watch: PrefixWatch,
        *,
        slot: Callable[[Caller], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._watch = watch
        self._slot = slot

    async def run(
        self, conversation: ChatRequest, items: Sequence[IntrinsicItem], origin: Origin, *, timeout_s: float
    ) -> list[IntrinsicOutcome]:
        """Return an outcome per intrinsic, in order; none of them raises.

        Args:
            conversation: with any model.
            items: the intrinsics.
            origin: of the request.
            timeout_s: after this, what is not there yet is an error.
        """
        outcomes = self.stream(conversation, items, origin, timeout_s=timeout_s)
        found = {number: outcome async for number, outcome in outcomes}
        return [found[number] for number in range(len(items))]

    async def stream(
        self, conversation: ChatRequest, items: Sequence[IntrinsicItem], origin: Origin, *, timeout_s: float
    ) -> AsyncIterator[tuple[int, IntrinsicOutcome]]:
        """Yield each outcome with its place as soon as it is there; see :meth:`run`. Closing it aborts the rest."""
        with self._dispatcher.place(origin):
            async with contextlib.aclosing(self._outcomes(conversation, items, origin, timeout_s)) as outcomes:
                async for number, outcome in outcomes:
                    yield number, outcome

    async def _outcomes(
        self, conversation: ChatRequest, items: Sequence[IntrinsicItem], origin: Origin, timeout_s: float
    ) -> AsyncGenerator[tuple[int, IntrinsicOutcome]]:
        started = time.perf_counter()
        deadline = asyncio.get_running_loop().time() + timeout_s
        going = [_Item(number, item.name, origin.numbered(number + 1), started) for number, item in enumerate(items)]
        for state, item in zip(going, items, strict=True):
            if (error := await self._prepare(state, item, conversation)) is not None:
                yield state.number, state.outcome(error=error)
        ready = [(state, state.request) for state in going if state.request is not None]
        prefixes = grouped([request for _, request in ready])
        tasks = [
            asyncio.create_task(self._answered(state, request, prefix, deadline, timeout_s), name="intrinsic")
            for (state, request), prefix in zip(ready, prefixes, strict=True)
        ]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def guard(
        self, conversation: ChatRequest, guards: Sequence[GuardItem], origin: Origin, *, timeout_s: float
    ) -> list[GuardVerdict]:
        """Return what guards say of a conversation, in order.

        Raises:
            InvalidRequestError: a guard is not an intrinsic, or one without a probability.
            AloraserveError: a guard could not answer; nothing passes then.
        """
        origin = replace(origin, request_id=f"{origin.request_id}-guard")
        outcomes = await self.run(conversation, guards, origin, timeout_s=timeout_s)
        return [GuardVerdict.of(outcome, item.threshold) for outcome, item in zip(outcomes, guards, strict=True)]

    async def _prepare(self, state: _Item, item: IntrinsicItem, conversation: ChatRequest) -> Exception | None:
        """Make an item's request; return why that is not possible."""
        try:
            version = await self._prompts.version(item.name, conversation, state.origin)
            spec = _spec_of(item.name, version)
            state.find(spec)
            asked = question(conversation, item.name, spec, item.fields)
            state.asked = asked.asked
            state.request = await self._prompts.chat(asked.body, state.origin, adapter=version)
        except FieldError as error:
            return InvalidRequestError(f"{error.field} {error.message}".strip(), param=error.field or None)
        except Exception as error:  # noqa: BLE001
            return _noted(error)
        return None

    async def _answered(
        self, state: _Item, request: GenerationRequest, prefix: SharedPrefix, deadline: float, timeout_s: float
    ) -> tuple[int, IntrinsicOutcome]:
        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._answer(state, request, prefix)
            if len(answer.text) > SHORT_ANSWER_CHARACTERS:
                return state.number, await asyncio.to_thread(state.outcome, answer=answer)
            return state.number, state.outcome(answer=answer)
        except TimeoutError:
            late = DeadlineError(f"the intrinsic was not answered within {timeout_s:g} s")
            return state.number, state.outcome(error=late)
        except Exception as error:  # noqa: BLE001
            return state.number, state.outcome(error=_noted(error))

    async def _answer(self, state: _Item, request: GenerationRequest, prefix: SharedPrefix) -> RawAnswer:
        blocks = prefix.common_with(request.keys)
        with self._slot(request.origin.caller), self._watch.watching(request, prefix):
            async with prefix.passed(blocks):
                generation = await self._dispatcher.generate(request)
                async with contextlib.aclosing(generation):
                    return await _read(state, generation)


def _spec_of(name: str, version: AdapterVersion | None) -> IntrinsicSpec:
    if version is None or version.intrinsic is None:
        raise InvalidRequestError(
            f"{name[:80]!r} is not an intrinsic: an adapter that is one has an io.yaml, or an 'intrinsic' in its "
            "aloraserve.json",
            param="intrinsics",
        )
    return version.intrinsic


async def _read(state: _Item, generation: Generation) -> RawAnswer:
    chunks = [chunk async for chunk in generation]
    text = "".join(chunk.text for chunk in chunks)
    reason = next((chunk.finish_reason for chunk in reversed(chunks) if chunk.finish_reason), "stop")
    request = generation.request
    state.facts = CallFacts(
        adapter="" if request.adapter is None else request.adapter.engine_name,
        text=text,
        finish_reason=reason,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=generation.cached_tokens,
        completion_tokens=generation.tokens,
        replica=generation.label,
        ttft_s=generation.ttft_s,
    )
    return RawAnswer(text, [token for chunk in chunks for token in chunk.logprobs], reason == "length")


def _noted(error: Exception) -> Exception:
    """Return an item's error; one that nobody foresaw goes to the log, where the client will not see it."""
    if not isinstance(error, AloraserveError):
        log.error("intrinsic_failed", cause=type(error).__name__, exc_info=error)
    return error
