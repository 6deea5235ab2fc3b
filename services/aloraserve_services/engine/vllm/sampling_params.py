"""Our sampling settings as vLLM's parameters."""

from __future__ import annotations

from typing import Any

from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput


def sampling_params(sampling: SamplingSettings) -> Any:
    """Return vLLM's parameters for ours; outputs come as deltas.

    vLLM refuses several greedy choices: they are equal, so one is generated.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1 if sampling.is_greedy else sampling.n,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        include_stop_str_in_output=sampling.include_stop,
        ignore_eos=sampling.ignore_eos,
        logit_bias=dict(sampling.logit_bias) or None,
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        bad_words=list(sampling.bad_words),
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        skip_special_tokens=sampling.skip_special_tokens,
        spaces_between_special_tokens=sampling.spaces_between_special_tokens,
        stream_interval=sampling.stream_interval,
        structured_outputs=None if sampling.structured is None else structured_outputs_params(sampling.structured),
        output_kind=RequestOutputKind.DELTA,
    )


def structured_outputs_params(structured: StructuredOutput) -> Any:
    """Return vLLM's parameters for the form of an answer."""
    from vllm.sampling_params import StructuredOutputsParams

    value = list(structured.choices) if structured.kind == "choice" else structured.text
    return StructuredOutputsParams(**{structured.kind: value})
