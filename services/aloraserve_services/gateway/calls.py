"""Chats and completions without a transport: from a validated body to an answer that any edge can write."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType

from aloraserve.adapters import AdapterRegistry
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.intrinsics.outcome import GuardVerdict
from aloraserve.serving.invocation_finder import InvocationFinder
from aloraserve.serving.invokable import InvokableAdapters
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.self_invocation import SelfInvocation
from aloraserve.wire import ChatRequest, CompletionRequest
from aloraserve_services.gateway.answers import Look
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.intrinsics import ChatIntrinsics
from aloraserve_services.gateway.prompt_list import merged

Chunks = Generation | SelfInvocation | AsyncGenerator[EngineChunk]


@dataclass(slots=True)
class BegunCall:
    """An answer that has its first chunk, to be written by an edge. Closing it aborts what is still generated.

    Args:
        requests: that are answered, one per prompt.
        generations: that begin the answer, one per prompt.
        chunks: of the whole answer.
        include_usage: whether a stream ends with the usage.
        held: what is held until the answer's end.
        guards: what let a chat pass.
        look: has intrinsics look at a chat's answer, None if the chat has none.
    """

    requests: Sequence[GenerationRequest]
    generations: Sequence[Generation]
    chunks: Chunks
    include_usage: bool
    held: contextlib.ExitStack
    guards: Sequence[GuardVerdict] = ()
    look: Look | None = None

    @property
    def request(self) -> GenerationRequest:
        """The first request, whose id is the answer's."""
        return self.requests[0]

    @property
    def first(self) -> Generation:
        """The generation that begins the answer."""
        return self.generations[0]

    async def aclose(self) -> None:
        """End the answer, and give back what is held for it."""
        with self.held:
            await self.chunks.aclose()
            # A generator that was never asked for a chunk closes nothing.
            for generation in self.generations:
                await generation.aclose()

    async def __aenter__(self) -> BegunCall:
        """Return this call, which is closed at the end of the context."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the call."""
        await self.aclose()


@dataclass(frozen=True, slots=True)
class GuardedCall:
    """A chat that guards refused: nothing is generated.

    Args:
        request: that is refused.
        verdicts: of all guards.
        include_usage: whether a stream ends with the usage.
    """

    request: GenerationRequest
    verdicts: Sequence[GuardVerdict]
    include_usage: bool


class ChatCalls:
    """Begins the answers to chats.

    Args:
        prompts: makes requests of bodies.
        dispatcher: has them answered.
        intrinsics: guard chats and look at their answers.
        slots: of calls in progress.
        adapters: that are served now.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        dispatcher: Dispatcher,
        intrinsics: ChatIntrinsics,
        slots: CallSlots,
        adapters: AdapterRegistry,
    ) -> None:
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._intrinsics = intrinsics
        self._slots = slots
        self._invokable = InvokableAdapters(adapters)

    async def begin(self, body: ChatRequest, origin: Origin) -> BegunCall | GuardedCall:
        """Return the answer to a chat once its first chunk is there, or all of it if it is not streamed.

        Args:
            body: of the request, validated.
            origin: of the request.

        Raises:
            AloraserveError: the chat cannot be answered.
        """
        origin = origin.salted(body.cache_salt)
        with contextlib.ExitStack() as held:
            held.enter_context(self._slots.held(origin.caller))
            held.enter_context(self._dispatcher.place(origin))
            request = await self._prompts.chat(body, origin)
            finder = self._invokable.finder(body, request)
            verdicts = await self._intrinsics.guard(body, origin)
            if any(verdict.is_refusal for verdict in verdicts):
                return GuardedCall(request, verdicts, body.include_usage)
            first, chunks = await self._begin(request, finder)
            look = functools.partial(self._intrinsics.check, body, origin) if body.intrinsics else None
            return BegunCall([request], [first], chunks, body.include_usage, held.pop_all(), verdicts, look)

    async def _begin(self, request: GenerationRequest, finder: InvocationFinder | None) -> tuple[Generation, Chunks]:
        """Return the call that begins an answer, and the chunks of all calls that the answer is made of."""
        if finder is None:
            generation = await self._dispatcher.generate(request)
            return generation, generation
        turns = await SelfInvocation(self._dispatcher, self._prompts, request, finder).begin()
        return turns.first, turns


class CompletionCalls:
    """Begins the answers to completions: each prompt of a body is a call of its own.

    Args:
        prompts: makes requests of bodies.
        dispatcher: has them answered.
        slots: of calls in progress.
    """

    def __init__(self, prompts: PromptBuilder, dispatcher: Dispatcher, slots: CallSlots) -> None:
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._slots = slots

    async def begin(self, body: CompletionRequest, origin: Origin) -> BegunCall:
        """Return the answer to a body once each prompt's first chunk is there, or all of it if it is not streamed.

        Args:
            body: of the request, validated.
            origin: of the request.

        Raises:
            AloraserveError: a prompt cannot be answered; the others are ended.
        """
        origin = origin.salted(body.cache_salt)
        with contextlib.ExitStack() as held:
            held.enter_context(self._dispatcher.place(origin))
            requests = []
            for number, part in enumerate(body.split()):
                held.enter_context(self._slots.held(origin.caller))
                requests.append(await self._prompts.completion(part, origin.numbered(number)))
            generations, chunks = await self._begin(requests)
            return BegunCall(requests, generations, chunks, body.include_usage, held.pop_all())

    async def _begin(self, requests: Sequence[GenerationRequest]) -> tuple[list[Generation], Chunks]:
        if len(requests) == 1:
            generation = await self._dispatcher.generate(requests[0])
            return [generation], generation
        generations = await self._dispatcher.generate_all(requests)
        return generations, merged(generations, requests[0].sampling.n)
