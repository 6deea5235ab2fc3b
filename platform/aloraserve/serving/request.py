"""One request on its way from an edge to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import BlockKey
from aloraserve.routing.base import Call
from aloraserve.routing.fair_share import TenantShare
from aloraserve.serving.engine_messages import EngineCall
from aloraserve.serving.tools import ToolUse
from aloraserve.tenants import Caller
from aloraserve.wire.sampling import PLAIN, AnswerExtras, SamplingSettings


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, as its edge knows it.

    Args:
        request_id: the id that the client sees.
        caller: whose request it is.
        arrived_at: when it came, on ``time.perf_counter``'s clock.
        session: the client's own id of the conversation, None without one.
        traceparent: of the span above the engine's own, None if the request is not traced.
        deadline: when the client asked to have its answer by, on the same clock as ``arrived_at``; None if it did not.
        priority: of the request among its tenant's others, as in vLLM: the lowest begins first.
    """

    request_id: str
    caller: Caller
    arrived_at: float
    session: str | None = None
    traceparent: str | None = None
    deadline: float | None = None
    priority: int = 0

    def salted(self, client_salt: str | None) -> Self:
        """Return the origin of a request that names a cache salt of its own; an empty one asks for nothing."""
        return self if not client_salt else replace(self, caller=self.caller.salted(client_salt))

    def numbered(self, number: int) -> Origin:
        """Return the origin of one of several calls that a request makes; the first has the request's own id."""
        return replace(self, request_id=f"{self.request_id}-{number}") if number else self


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as its answer begins with it.

    Args:
        text: of the prompt, empty where its token ids stand for it.
        first_token: of the prompt, the one that has no log-probability.
        is_alone: whether nothing follows.
    """

    text: str
    first_token: str
    is_alone: bool


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A validated request, rendered and tokenized: all that any later step needs to know.

    Args:
        origin: where it comes from.
        model: the name that the client asked for.
        token_ids: the whole prompt, an aLoRA's invocation included.
        sampling: how to generate; ``max_tokens`` is set.
        call: what the router may know of it, its block keys included.
        adapter: None for the base model.
        activation: index of the first token that the adapter changes, None for the base model.
        is_streamed: whether the client sees tokens as they come. An answer that is not streamed can be generated again
            until its end.
        shows_tokens: whether the answer's chunks have their token ids.
        extras: what the answer has beside what is generated.
        echo: of the prompt, None if the answer has none.
        keys: the prompt's block keys. The router has none of a call that reads no cached block.
        public_blocks: how many of the prompt's first blocks are everybody's.
        tool_use: how calls of functions are read out of the answer; None where all of it is text.
    """

    origin: Origin
    model: str
    token_ids: list[int]
    sampling: SamplingSettings
    call: Call
    adapter: AdapterVersion | None = None
    activation: int | None = None
    is_streamed: bool = False
    shows_tokens: bool = False
    extras: AnswerExtras = PLAIN
    echo: Echo | None = None
    keys: Sequence[BlockKey] = ()
    public_blocks: int = 0
    tool_use: ToolUse | None = None

    @property
    def id(self) -> str:
        """The id that the client sees."""
        return self.origin.request_id

    @property
    def kind(self) -> str:
        """Either "base", "lora" or "alora"."""
        return "base" if self.adapter is None else self.adapter.kind

    @property
    def prompt_tokens(self) -> int:
        """The prompt's length."""
        return len(self.token_ids)

    def engine_call(self, call_id: str, share: TenantShare | None = None) -> EngineCall:
        """Return what travels to the engine.

        Args:
            call_id: of one attempt; engines and claims know the call by it.
            share: of its tenant.
        """
        return EngineCall(
            call_id,
            self.token_ids,
            self.sampling,
            adapter=None if self.adapter is None else self.adapter.ref,
            cache_salt=self.origin.caller.cache_salt,
            keys=self.keys,
            traceparent=self.origin.traceparent,
            shows_tokens=self.shows_tokens,
            share=share,
            public_blocks=self.public_blocks,
        )
