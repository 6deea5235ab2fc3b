"""The fields of a request that both endpoints have."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Raw

from aloraserve.wire.fields import (
    STOPS,
    CallFields,
    OnlyFalse,
    OnlyOne,
    OnlyUnlimited,
    OnlyZero,
    OpenPart,
    Unsupported,
    refusal,
    small_value,
)
from aloraserve.wire.sampling import MAX_LOGPROBS, NEUTRAL, AnswerExtras, SamplingDefaults, SamplingSettings
from aloraserve.wire.structured import StructuredOutput, structured_output

MAX_CHOICES = 8
MAX_GENERATED_TOKENS = 1_000_000
TOKEN_ID_LIMIT = 2**31
MAX_SALT_CHARACTERS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LISTED_TOKEN_IDS = 1024
"""Of biases and allowed tokens. What is more ends vLLM's engine on a GPU (``v1/worker/gpu/sample/logit_bias.py``)."""
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARACTERS = 256
MAX_REPETITION_PENALTY = 1000
MAX_BIAS = 100.0
"""vLLM takes what is beyond as that."""
_INT64 = 2**63

STRUCTURED = "an object with one of json, regex, choice, grammar, json_object"
FORMATS = "an object of type text, json_object or json_schema"
BIASES = f"an object of at most {MAX_LISTED_TOKEN_IDS} numbers by token id; beyond -100 and 100 they count as that"
TokenCount = Annotated[int, Meta(ge=1, le=MAX_GENERATED_TOKENS)]
TokenId = Annotated[int, Meta(ge=0, lt=TOKEN_ID_LIMIT)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Priority = Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)]
CacheSalt = Annotated[str, Meta(max_length=MAX_SALT_CHARACTERS)]
BadWord = Annotated[str, Meta(min_length=1, max_length=MAX_BAD_WORD_CHARACTERS)]


class StreamOptions(OpenPart, frozen=True, kw_only=True):
    """Options of a stream: what it carries beside its text. Padding against eavesdroppers is never sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(CallFields, frozen=True, kw_only=True):
    """See the module's docstring; :mod:`aloraserve.wire.field_table` makes a page of them."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Annotated[Raw, Meta(description="a string, or a list of up to 128, 1 to 256 characters each")] = Raw()
    seed: Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    ignore_eos: bool | None = None
    structured_outputs: Annotated[Raw, Meta(description=STRUCTURED)] = Raw()
    response_format: Annotated[Raw, Meta(description=FORMATS)] = Raw()
    top_k: Annotated[int, Meta(ge=-1, lt=TOKEN_ID_LIMIT)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=MAX_REPETITION_PENALTY)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_GENERATED_TOKENS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=MAX_LISTED_TOKEN_IDS, description=BIASES)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_LISTED_TOKEN_IDS)] | None = None
    bad_words: Annotated[list[BadWord], Meta(max_length=MAX_BAD_WORDS)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=_INT64 - 1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    stream_interval: Annotated[int, Meta(ge=1, le=MAX_GENERATED_TOKENS)] | None = None
    priority: Priority | None = None
    cache_salt: CacheSalt | None = None
    ec_transfer_params: Unsupported = None
    kv_transfer_params: Unsupported = None
    length_penalty: OnlyOne = None
    logprob_token_ids: Unsupported = None
    repetition_detection: Unsupported = None
    request_id: Unsupported = None
    routed_experts_prompt_start: OnlyZero = None
    thinking_token_budget: OnlyUnlimited = None
    use_beam_search: OnlyFalse = None
    vllm_xargs: Unsupported = None
    watermarking: OnlyFalse = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stops()
        self.structured()
        self.biases()
        if (self.include_usage or self.extras().running_usage) and not self.stream:
            raise refusal("", "'stream_options' is accepted only with 'stream': true")
        if self.prompt_logprobs is not None and self.stream:
            raise refusal("", "'prompt_logprobs' is accepted only without 'stream'")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def stops(self) -> tuple[str, ...]:
        """Return the strings that end a choice."""
        stop = small_value("stop", self.stop, STOPS)
        return (stop,) if isinstance(stop, str) and stop else tuple(stop or ())

    def structured(self) -> StructuredOutput | None:
        """Return the form that the answer must have, None where any text will do."""
        return structured_output(self.structured_outputs, self.response_format)

    @property
    def structured_field(self) -> str:
        """The field that says so."""
        return "structured_outputs" if structured_output(self.structured_outputs, Raw()) else "response_format"

    def biases(self) -> tuple[tuple[int, float], ...]:
        """Return what is added to tokens' logits, each id once."""
        found = {_token_id(key): max(-MAX_BIAS, min(bias, MAX_BIAS)) for key, bias in (self.logit_bias or {}).items()}
        return tuple(found.items())

    def extras(self) -> AnswerExtras:
        """Return what the answer has beside what was generated."""
        options = self.stream_options
        return AnswerExtras(
            token_ids=bool(self.return_token_ids),
            tokens_as_ids=bool(self.return_tokens_as_token_ids),
            running_usage=self.include_usage and options is not None and bool(options.continuous_usage_stats),
        )

    def settings(
        self,
        *,
        max_tokens: int | None,
        logprobs: int | None,
        defaults: SamplingDefaults = NEUTRAL,
        prompt_logprobs: int | None = None,
    ) -> SamplingSettings:
        """Return the sampling settings, with each absent field at its default."""
        return SamplingSettings(
            max_tokens=max_tokens,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            n=self.n or 1,
            stop=self.stops(),
            seed=self.seed,
            presence_penalty=defaults.presence_penalty if self.presence_penalty is None else self.presence_penalty,
            frequency_penalty=defaults.frequency_penalty if self.frequency_penalty is None else self.frequency_penalty,
            logprobs=logprobs,
            ignore_eos=bool(self.ignore_eos),
            structured=self.structured(),
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            min_p=defaults.min_p if self.min_p is None else self.min_p,
            repetition_penalty=self.repetition_penalty or defaults.repetition_penalty,
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logit_bias=self.biases(),
            allowed_token_ids=tuple(self.allowed_token_ids or ()),
            bad_words=tuple(self.bad_words or ()),
            include_stop=bool(self.include_stop_str_in_output),
            skip_special_tokens=self.skip_special_tokens is not False,
            spaces_between_special_tokens=self.spaces_between_special_tokens is not False,
            prompt_logprobs=self.prompt_logprobs if prompt_logprobs is None else prompt_logprobs,
            stream_interval=self.stream_interval or 1,
        )


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > 10 or int(key) >= TOKEN_ID_LIMIT:
        raise refusal("logit_bias", f"has the key '{key[:40]}'; token ids from 0 to {TOKEN_ID_LIMIT - 1} are accepted")
    return int(key)
