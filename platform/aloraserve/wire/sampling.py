"""How to generate and what to show of it, free of any engine's own types."""

from __future__ import annotations

from dataclasses import dataclass

from aloraserve.wire.structured import StructuredOutput

MAX_LOGPROBS = 20
"""Alternatives per token, as in vLLM."""
_GREEDY_BELOW = 1e-5
"""vLLM's ``_SAMPLING_EPS``."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Sampling settings that both kinds of request convert into; vLLM's ``SamplingParams`` say more of each.

    Args:
        max_tokens: tokens to generate at most; None leaves it to what the context has room for.
        temperature: 0 is greedy.
        top_p: nucleus mass, above 0 and at most 1.
        n: choices to generate.
        stop: strings that end a choice.
        seed: of the sampling, or None.
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        logprobs: alternatives to report beside each generated token's own log-probability; None reports none.
        ignore_eos: generate on to ``max_tokens`` where the model would end; vLLM's extension, for measurements.
        structured: the form that each choice must have, None where any text will do.
        top_k: tokens to choose from; 0 or -1 for all.
        min_p: least probability of a token, as a share of the likeliest one's.
        repetition_penalty: above 0; 1 for none.
        min_tokens: before which no choice ends.
        stop_token_ids: tokens that end a choice.
        logit_bias: what is added to tokens' logits, by their ids.
        allowed_token_ids: the tokens to choose from; empty for all.
        bad_words: texts that are not generated.
        include_stop: whether a stop string is part of the text.
        skip_special_tokens: whether special tokens have no text.
        spaces_between_special_tokens: whether there are spaces between those that have.
        prompt_logprobs: as ``logprobs``, of the prompt's tokens. Such a call reads no cached block.
        stream_interval: generated tokens that leave together, if the engine's own setting is not higher.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    ignore_eos: bool = False
    structured: StructuredOutput | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    prompt_logprobs: int | None = None
    stream_interval: int = 1

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken each time, so that all choices are equal."""
        return self.temperature < _GREEDY_BELOW

    @property
    def reads_cache(self) -> bool:
        """Whether cached blocks are used: the log-probabilities of their tokens are not cached with them."""
        return self.prompt_logprobs is None


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request means that leaves fields out; :class:`SamplingSettings` says what each is."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


NEUTRAL = SamplingDefaults()
"""OpenAI's defaults, and vLLM's for a model that has none."""


@dataclass(frozen=True, slots=True)
class AnswerExtras:
    """What an answer has beside what was generated.

    Args:
        token_ids: the prompt's and the generated tokens' ids.
        tokens_as_ids: tokens of log-probabilities are named by their ids.
        running_usage: each event of a stream has the usage so far.
    """

    token_ids: bool = False
    tokens_as_ids: bool = False
    running_usage: bool = False


PLAIN = AnswerExtras()
