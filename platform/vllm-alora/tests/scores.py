"""Answers of an engine in bf16 against PEFT in fp32: how far the log-probabilities of the same tokens lie apart.

Rounding picks another token now and then, and all that follow differ. So PEFT scores the tokens that the engine chose
(teacher forcing), and what is compared are the log-probabilities of the likeliest tokens of each step.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tiny import Engine, Reference

Call = tuple[Sequence[int], str | None]
"""A prompt, and the adapter's name (None for the base model)."""

TOP = 20
"""How many tokens of a step are compared: vLLM's default limit."""


@dataclass(frozen=True)
class Steps:
    """One answer.

    Attributes:
        tokens: what the engine generated.
        logprobs: of the likeliest tokens of each step, by token id.
        cached_tokens: of the prompt, taken from the prefix cache.
    """

    tokens: list[int]
    logprobs: list[dict[int, float]]
    cached_tokens: int


def answer_all(engine: Engine, calls: Sequence[Call], count: int = 4, lora_request: Any = None) -> list[Steps]:
    """Run the calls in one batch, greedily, ``count`` tokens each.

    Args:
        engine: with :data:`tiny.ADAPTERS`.
        calls: prompts and names of adapters.
        count: how many tokens to generate.
        lora_request: of the adapter to use for every call that names one, instead of the engine's of that name.
    """
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=count, min_tokens=count, temperature=0, logprobs=TOP, detokenize=False)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt, _ in calls]
    loras = [None if name is None else lora_request or engine.lora(name) for _, name in calls]
    return [
        Steps(
            list(output.outputs[0].token_ids),
            [{token: found.logprob for token, found in step.items()} for step in output.outputs[0].logprobs],
            output.num_cached_tokens or 0,
        )
        for output in engine.llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
    ]


def answer_each(engine: Engine, calls: Sequence[Call], count: int = 4) -> list[Steps]:
    """Run the calls one after the other."""
    return [answer_all(engine, [call], count)[0] for call in calls]


def distance(reference: Reference, call: Call, answer: Steps) -> float:
    """Return the mean distance between the engine's and PEFT's log-probabilities, in nats."""
    prompt, adapter = call
    expected = reference.logprobs([*prompt, *answer.tokens[:-1]], adapter)[len(prompt) - 1 :]
    return statistics.fmean(
        abs(logprob - float(row[token]))
        for row, step in zip(expected, answer.logprobs, strict=True)
        for token, logprob in step.items()
    )


def apart(first: Steps, second: Steps) -> float:
    """Return the mean distance between two answers in the log-probabilities of their first step's tokens, in nats.

    A token that is not among the likeliest of one answer counts as the least likely of them: the true distance is
    greater.
    """
    one, other = first.logprobs[0], second.logprobs[0]
    least_one, least_other = min(one.values()), min(other.values())
    return statistics.fmean(
        abs(one.get(token, least_one) - other.get(token, least_other)) for token in one.keys() | other.keys()
    )
