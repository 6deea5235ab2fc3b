"""A call that a replica has begun to answer."""

from __future__ import annotations

import time
from collections import deque

from aloraserve.diagnosis.account import ReuseAccount
from aloraserve.routing.base import Decision
from aloraserve.routing.receipts import Outcome, estimate_error_s
from aloraserve.savings.base import CallSavings
from aloraserve.serving.admission import OPEN_TICKET, CallUsage, Ticket
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.engine_messages import EngineChunk, EngineRefusal
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest


class Generation:
    """An answer whose first chunk is there: what is known of it, and an asynchronous iterator of all its chunks.

    Closing it aborts the call, also before anything was read. A chunk passes four iterators of ours: the engine's and
    its replica's before it is sent, this one and the edge's writer after.

    Args:
        attempt: begun.
        first: its first chunk.
        ttft_s: see below.
        observer: learns of tokens and of the end.

    Attributes:
        request: that is answered.
        ttft_s: from the acceptance of the call to its first chunk, earlier attempts included.
        tokens: generated so far, of all choices.
        reuse: account of its prompt's reuse, set by an observer of first tokens.
        ticket: that let the call in.
    """

    def __init__(self, attempt: Attempt, first: EngineChunk, ttft_s: float, observer: CallObserver) -> None:
        self.request: GenerationRequest = attempt.request
        self.ttft_s = ttft_s
        self.tokens = first.tokens
        self.reuse: ReuseAccount | None = None
        self.ticket: Ticket = OPEN_TICKET
        self._attempt = attempt
        self._facts = first
        self._ready = deque([first])
        self._observer = observer
        self._is_open = True
        self._last_at = time.perf_counter() if first.tokens and not first.index else 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the next chunk, or the end, can be had without waiting."""
        return bool(self._ready) or self._attempt.is_ready

    @property
    def attempt(self) -> Attempt:
        """The attempt that is answered."""
        return self._attempt

    @property
    def replica(self) -> str:
        """Id of the replica that answers."""
        return self._attempt.replica

    @property
    def label(self) -> str:
        """Short name of the replica that answers."""
        return self._attempt.placement.label(self._attempt.replica)

    @property
    def decision(self) -> Decision:
        """Why it was chosen."""
        return self._attempt.placement.decision

    @property
    def estimate_error_s(self) -> float | None:
        """The TTFT less the expected one; see :func:`~aloraserve.routing.receipts.estimate_error_s`."""
        attempt = self._attempt
        is_first = len(attempt.records) == 1
        return estimate_error_s(attempt.placement, attempt.replica, self.ttft_s, is_first=is_first)

    @property
    def reason(self) -> str:
        """The decision's reason, or why another replica than the first in rank answers."""
        decision = self.decision
        if not decision.estimates or decision.estimates[0].replica == self.replica:
            return decision.reason
        return f"next in rank: {decision.estimates[0].label} was full or lost ({decision.reason})"

    @property
    def overlap_tokens(self) -> int:
        """Prompt tokens that the decision expected to be cached there."""
        return self._attempt.overlap_tokens

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were not prefilled, as the engine counts them."""
        return self._facts.cached_tokens

    @property
    def savings(self) -> CallSavings | None:
        """Effect of reuse across adapters on the call, None if that is not known."""
        return self._facts.savings

    @property
    def prefill_s(self) -> float:
        """Of ``ttft_s``, the engine's own prefill; 0 if the engine does not say."""
        return self._facts.prefill_s

    @property
    def usage(self) -> CallUsage:
        """Tokens that the call used so far; they add up whatever an engine says was cached."""
        prompt_tokens = self.request.prompt_tokens
        return CallUsage(prompt_tokens, min(self.cached_tokens, prompt_tokens), self.tokens)

    def settle_with(self, ticket: Ticket) -> None:
        """Settle a ticket at the answer's end, which may have been."""
        self.ticket = ticket
        if not self._is_open:
            ticket.settle(self.usage)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> EngineChunk:
        """Return the next chunk.

        Raises:
            InvalidRequestError: the engine refused the call.
            ReplicaLostError: the replica was lost amid the answer.
        """
        if self._ready:
            return self._ready.popleft()
        if not self._is_open:
            raise StopAsyncIteration
        try:
            reply = await self._attempt.next_reply()
            if isinstance(reply, EngineRefusal):
                raise reply.error()
        except BaseException:
            await self._end()
            raise
        self._note(reply)
        return reply

    async def read_all(self) -> None:
        """Wait until the answer is whole; its chunks are kept to be read.

        Raises:
            LostError: the replica was lost before.
        """
        self._ready = deque([chunk async for chunk in self])

    async def aclose(self) -> None:
        """Abort the call, if it has not ended."""
        self._attempt.outcome = Outcome.CANCELLED if self._is_open else self._attempt.outcome
        await self._end()

    def _note(self, chunk: EngineChunk) -> None:
        self.tokens += chunk.tokens
        itl_s = None
        if chunk.tokens and not chunk.index:
            now = time.perf_counter()
            if self._last_at:
                # A chunk of several tokens is as many gaps; their mean is enough.
                itl_s = (now - self._last_at) / chunk.tokens
            self._last_at = now
        self._observer.more_tokens(self, chunk, itl_s)

    async def _end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self._attempt.close()
        finally:
            self._observer.ended(self._attempt, self)
            self.ticket.settle(self.usage)
