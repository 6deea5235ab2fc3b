"""What a model allows of a request's sampling: its context, its tokens, and its own defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aloraserve.adapters import AdapterVersion
from aloraserve.errors import InvalidRequestError
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import CompletionRequest
from aloraserve.wire.sampling import NEUTRAL, SamplingDefaults, SamplingSettings

MAX_PROMPT_LOGPROBS = 262_144
"""Of a prompt's tokens and their alternatives together: some megabytes on their way to a client."""


class SamplingRules:
    """See the module's docstring.

    Args:
        max_model_len: tokens of a prompt and its answer together.
        vocabulary: tokens that the model has an embedding of. Another one's id ends its engine.
        defaults: of fields that a request leaves out.
    """

    def __init__(self, max_model_len: int, vocabulary: int, defaults: SamplingDefaults = NEUTRAL) -> None:
        self._max_model_len = max_model_len
        self._vocabulary = vocabulary
        self._defaults = defaults

    def within(self, max_model_len: int) -> SamplingRules:
        """Return the same rules for another context."""
        return SamplingRules(max_model_len, self._vocabulary, self._defaults)

    def settings(
        self, body: ChatRequest | CompletionRequest, prompt_tokens: int, field: str, default_tokens: int | None
    ) -> SamplingSettings:
        """Return a request's settings with ``max_tokens`` set, to what the context has room for at most.

        Args:
            body: of the request.
            prompt_tokens: its prompt's length.
            field: that has the prompt.
            default_tokens: ``max_tokens`` where neither the request nor the model's defaults have it.

        Raises:
            InvalidRequestError: the context has no room, a token is not the model's, or settings contradict each other.
        """
        sampling, room = body.sampling(self._defaults), self._room(prompt_tokens, field)
        if sampling.max_tokens is not None and sampling.max_tokens > self._max_model_len:
            raise InvalidRequestError(
                f"max_tokens is {sampling.max_tokens}; the model's context holds {self._max_model_len} tokens",
                param="max_tokens",
            )
        max_tokens = min(room, sampling.max_tokens or default_tokens or room)
        self._check(sampling, max_tokens, prompt_tokens)
        return replace(sampling, max_tokens=max_tokens)

    def check_tokens(self, token_ids: Sequence[int], field: str) -> None:
        """Raise unless the model has an embedding of each token.

        Raises:
            InvalidRequestError: it does not.
        """
        if max(token_ids, default=0) >= self._vocabulary:
            wrong = next(token for token in token_ids if token >= self._vocabulary)
            raise InvalidRequestError(
                f"{field} has token id {wrong}; the vocabulary has {self._vocabulary}", param=field
            )

    def _room(self, prompt_tokens: int, field: str) -> int:
        limit = self._max_model_len
        if prompt_tokens == 0:
            raise InvalidRequestError("the prompt has no tokens; at least 1 is needed", param=field)
        if prompt_tokens >= limit:
            raise InvalidRequestError(
                f"the prompt has {prompt_tokens} tokens; the model's context holds {limit}, answer included",
                param=field,
            )
        return limit - prompt_tokens

    def _check(self, sampling: SamplingSettings, max_tokens: int, prompt_tokens: int) -> None:
        self.check_tokens(sampling.stop_token_ids, "stop_token_ids")
        self.check_tokens(sampling.allowed_token_ids, "allowed_token_ids")
        self.check_tokens([token for token, _ in sampling.logit_bias], "logit_bias")
        if sampling.min_tokens > max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {sampling.min_tokens}; at most max_tokens, here {max_tokens}, is accepted",
                param="min_tokens",
            )
        asked = 0 if sampling.prompt_logprobs is None else prompt_tokens * (sampling.prompt_logprobs + 1)
        if asked > MAX_PROMPT_LOGPROBS:
            raise InvalidRequestError(
                f"{asked} log-probabilities of the prompt are asked for; at most {MAX_PROMPT_LOGPROBS} are accepted",
                param="prompt_logprobs",
            )


def adapter_sampling(adapter: AdapterVersion, sampling: SamplingSettings) -> SamplingSettings:
    """Return how an adapter generates that the base model has invoked: as its intrinsic says, if it is one.

    What ends or bends the base model's own answer would cut the form of the adapter's.
    """
    free = replace(
        sampling, stop=(), stop_token_ids=(), min_tokens=0, logit_bias=(), allowed_token_ids=(), bad_words=()
    )
    own = adapter.intrinsic.parameters if adapter.intrinsic else None
    if own is None:
        return free
    limit = min(sampling.max_tokens or own.max_tokens or 0, own.max_tokens or sampling.max_tokens or 0)
    return replace(free, max_tokens=limit, temperature=own.temperature, stop=own.stop)
