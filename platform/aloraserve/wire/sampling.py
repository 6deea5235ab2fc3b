"""How to generate, free of any engine's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Raw

from aloraserve.wire.fields import (
    STOPS,
    CallFields,
    OnlyFalse,
    OnlyNoTopK,
    OnlyOne,
    OnlyTrue,
    OnlyUnlimited,
    OnlyZero,
    OpenPart,
    Unsupported,
    check_switches,
    refusal,
    small_value,
)
from aloraserve.wire.structured import StructuredOutput, structured_output

MAX_CHOICES = 8
MAX_GENERATED_TOKENS = 1_000_000
_INT64 = 2**63

STRUCTURED = "an object with one of json, regex, choice, grammar, json_object"
FORMATS = "an object of type text, json_object or json_schema"
TokenCount = Annotated[int, Meta(ge=1, le=MAX_GENERATED_TOKENS)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Sampling settings that both kinds of request convert into.

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
        skip_special_tokens: leave special tokens out of the text.
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
    skip_special_tokens: bool = True


class StreamOptions(OpenPart, frozen=True, kw_only=True):
    """Options of a stream: what it carries beside its text. Padding against eavesdroppers is never sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: OnlyFalse = None

    def __post_init__(self) -> None:
        check_switches(self)


class SamplingFields(CallFields, frozen=True, kw_only=True):
    """The fields of a request that both endpoints have."""

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
    min_p: OnlyZero = None
    min_tokens: OnlyZero = None
    repetition_penalty: OnlyOne = None
    use_beam_search: OnlyFalse = None
    length_penalty: OnlyOne = None
    watermarking: OnlyFalse = None
    logprob_token_ids: Unsupported = None
    request_id: Unsupported = None
    routed_experts_prompt_start: OnlyZero = None
    cache_salt: Unsupported = None
    kv_transfer_params: Unsupported = None
    ec_transfer_params: Unsupported = None
    vllm_xargs: Unsupported = None
    repetition_detection: Unsupported = None
    thinking_token_budget: OnlyUnlimited = None
    top_k: OnlyNoTopK = None
    stop_token_ids: Unsupported = None
    include_stop_str_in_output: OnlyFalse = None
    skip_special_tokens: OnlyTrue = None
    spaces_between_special_tokens: OnlyTrue = None
    truncate_prompt_tokens: Unsupported = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: Unsupported = None
    allowed_token_ids: Unsupported = None
    bad_words: Unsupported = None
    priority: OnlyZero = None
    return_tokens_as_token_ids: OnlyFalse = None
    return_token_ids: OnlyFalse = None
    stream_interval: OnlyOne = None
    logit_bias: Unsupported = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stops()
        self.structured()
        if self.include_usage and not self.stream:
            raise refusal("", "'stream_options' is accepted only with 'stream': true")
        if (self.n or 1) > 1 and self.temperature == 0:
            raise refusal("", "'n' above 1 needs a 'temperature' above 0: greedy choices are equal")

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

    def settings(self, *, max_tokens: int | None, logprobs: int | None) -> SamplingSettings:
        """Return the sampling settings, with each absent field at OpenAI's default."""
        return SamplingSettings(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            n=self.n or 1,
            stop=self.stops(),
            seed=self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logprobs=logprobs,
            ignore_eos=bool(self.ignore_eos),
            structured=self.structured(),
        )
