"""How to generate, free of any engine's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Raw

from aloraserve.wire.fields import STOPS, IgnoredFields, OnlyOne, OnlyZero, RequestPart, refusal, small_value
from aloraserve.wire.structured import StructuredOutput, structured_output

MAX_CHOICES = 8
MAX_GENERATED_TOKENS = 1_000_000
_INT64 = 2**63

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


class StreamOptions(RequestPart, frozen=True, kw_only=True):
    """Options of a stream: what it carries beside its text. Padding against eavesdroppers is never sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(IgnoredFields, frozen=True, kw_only=True):
    """The fields of a request that both endpoints have."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Raw = Raw()
    seed: Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    ignore_eos: bool | None = None
    structured_outputs: Raw = Raw()
    response_format: Raw = Raw()
    min_p: OnlyZero = None
    min_tokens: OnlyZero = None
    repetition_penalty: OnlyOne = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stops()
        self.structured()
        if self.stream_options is not None and not self.stream:
            raise refusal("", "'stream_options' is accepted only with 'stream': true")
        if self.stream_options is not None and self.stream_options.continuous_usage_stats:
            raise refusal(
                "stream_options.continuous_usage_stats", "is not supported by this server; only false is accepted"
            )
        if (self.n or 1) > 1 and self.temperature == 0:
            raise refusal("", "'n' above 1 needs a 'temperature' above 0: greedy choices are equal")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def stops(self) -> tuple[str, ...]:
        """Return the strings that end a choice."""
        stop = small_value("stop", self.stop, STOPS)
        return (stop,) if isinstance(stop, str) else tuple(stop or ())

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
