"""Messages between serving and an engine replica. Both sides are ours; nothing here meets a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import BlockKey
from aloraserve.errors import AdapterNotLoadedError, AloraserveError, InvalidRequestError
from aloraserve.routing.fair_share import TenantShare
from aloraserve.routing.receipts import Outcome
from aloraserve.savings.base import CallSavings
from aloraserve.wire.sampling import SamplingSettings

_ENDED_ENGINE_ERRORS = ("EngineDeadError", "EngineEndedError")
DEAD_ENGINE_ERRORS = (*_ENDED_ENGINE_ERRORS, "EngineGenerateError")
"""Names of the errors under which another replica may answer: vLLM's, which not every process has, and our own."""


def engine_outcome(error: str) -> Outcome:
    """Return what an engine's error means for an attempt.

    Args:
        error: its class's name.
    """
    if error in _ENDED_ENGINE_ERRORS:
        return Outcome.ENGINE_ENDED
    return Outcome.LOST if error in DEAD_ENGINE_ERRORS else Outcome.FAILED


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One request for an engine.

    Args:
        request_id: the id that the client sees.
        token_ids: the whole prompt.
        sampling: how to generate; ``max_tokens`` is set.
        adapter: the version that is to answer and no other, None for the base model.
        cache_salt: the tenant's salt.
        keys: the prompt's block keys, as the gateway derived them.
        traceparent: the span above the replica's own, None if the call is not traced.
        shows_tokens: whether the chunks' token ids come back with them.
        share: of its tenant, None without tenants.
        public_blocks: how many of the prompt's first blocks are everybody's: the salt begins behind them.
        elsewhere_tokens: the prompt's leading tokens that some replica other than the chosen one holds, too.
    """

    request_id: str
    token_ids: list[int]
    sampling: SamplingSettings
    adapter: AdapterRef | None = None
    cache_salt: str | None = None
    keys: Sequence[BlockKey] = ()
    traceparent: str | None = None
    shows_tokens: bool = False
    share: TenantShare | None = None
    public_blocks: int = 0
    elsewhere_tokens: int = 0


class TokenLogprob(NamedTuple):
    """A token with its log-probability.

    Args:
        token: what it adds to the text; of an alternative that is part of a character its bytes, escaped.
        logprob: natural logarithm of its probability.
        raw: its own bytes where they are not the text's: it is part of a character, or completes one.
        token_id: in the vocabulary.
        rank: among all tokens in its place, from 1; 0 if that is not known.
    """

    token: str
    logprob: float
    raw: bytes | None = None
    token_id: int = 0
    rank: int = 0

    @property
    def utf8(self) -> list[int]:
        """Its bytes; those of an answer's tokens join to the answer's."""
        return list(self.token.encode() if self.raw is None else self.raw)


class TokenLogprobs(NamedTuple):
    """A token of an answer or a prompt, and the likeliest alternatives in its place; it may be one of them."""

    chosen: TokenLogprob
    alternatives: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineChunk:
    """Addition of one engine step to one choice.

    Args:
        index: of the choice.
        text: new text; may be empty while a character or a stop string is incomplete.
        tokens: how many new tokens.
        finish_reason: "stop" or "length" on the choice's last chunk.
        cached_tokens: prompt tokens that were not prefilled, as the engine counts them.
        logprobs: of the new tokens, if they were asked for.
        token_ids: the new tokens; they stay in the replica unless the call asks for them.
        savings: on a call's first chunk, what reuse across adapters did to it; None if that is not known.
        prefill_s: on a call's first chunk, what its prefill took from its begin on; 0 if the engine does not say.
        stop_reason: on the choice's last chunk, the stop string or the id of the stop token that ended it.
        prompt_logprobs: on a choice's first chunk, of the prompt's tokens if they were asked for; the first has none.
    """

    index: int
    text: str
    tokens: int
    finish_reason: str | None = None
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = field(default=())
    prefill_s: float = 0.0
    token_ids: tuple[int, ...] = ()
    savings: CallSavings | None = None
    stop_reason: int | str | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineRefusal:
    """The engine does not take the call; sent as an answer, because it is not a fault of the replica.

    Args:
        message: why, for the client.
        param: the request's field at fault.
        is_adapter_fault: the files of the call's adapter cannot be loaded; else the call's own content is wrong.
    """

    message: str
    param: str | None = None
    is_adapter_fault: bool = False

    def error(self) -> AloraserveError:
        """Return the client's error."""
        kind = AdapterNotLoadedError if self.is_adapter_fault else InvalidRequestError
        return kind(self.message, param=self.param)


@dataclass(frozen=True, slots=True)
class EngineUnavailable:
    """This replica cannot serve the call now; another one may."""

    message: str


EngineReply = EngineChunk | EngineRefusal | EngineUnavailable
