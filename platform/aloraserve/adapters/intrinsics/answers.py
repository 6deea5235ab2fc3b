"""From an adapter's raw answer to its value, with the probabilities of what else it might have been."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aloraserve.adapters.intrinsics.spec import ChoiceForm, IntrinsicSpec, JsonForm, RegexForm
from aloraserve.errors import UnusableAnswerError


class TokenChance(Protocol):
    """A token with its log-probability."""

    @property
    def token(self) -> str: ...
    @property
    def logprob(self) -> float: ...


class TokenChances(Protocol):
    """A generated token, and its likeliest alternatives."""

    @property
    def chosen(self) -> TokenChance: ...
    @property
    def alternatives(self) -> Sequence[TokenChance]: ...


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What an adapter answered.

    Args:
        text: all of it.
        logprobs: of its tokens, empty if they were not asked for.
        is_cut_off: whether it ended at the most tokens it may have.
    """

    text: str
    logprobs: Sequence[TokenChances] = ()
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What an adapter was asked, as far as an answer refers to it by number.

    Args:
        messages: role and text of each, as the model saw them, sentences numbered; the instruction is the last one.
        documents: id and text of each, likewise; empty if they are among the messages.
    """

    messages: Sequence[tuple[str, str]] = ()
    documents: Sequence[tuple[str | None, str]] = ()


@dataclass(frozen=True, slots=True)
class IntrinsicValue:
    """What an answer means.

    Args:
        value: of JSON types, as the form says.
        probability: of what the intrinsic asks, 0 to 1; None for a form that has none.
        probabilities: of each choice, for forms of choices.
    """

    value: Any
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None


def interpret(spec: IntrinsicSpec, answer: RawAnswer, asked: Asked) -> IntrinsicValue:
    """Return what an answer means.

    Raises:
        UnusableAnswerError: it is not in the intrinsic's form.
    """
    form = spec.form
    if isinstance(form, ChoiceForm):
        return _choice(form, answer)
    if isinstance(form, JsonForm):
        return _json(form, answer, asked)
    if isinstance(form, RegexForm) and answer.is_cut_off:
        raise _cut_off()
    return IntrinsicValue(answer.text)


def _choice(form: ChoiceForm, answer: RawAnswer) -> IntrinsicValue:
    text = answer.text.strip()
    if text not in form.choices:
        raise _cut_off() if answer.is_cut_off else UnusableAnswerError(f"the answer is none of {_some(form.choices)}")
    chances = choice_probabilities(form.choices, answer.logprobs) or {text: 1.0}
    probabilities = {choice: chances.get(choice, 0.0) for choice in form.choices}
    probability = None
    if form.numbers:
        probability = sum(
            number * probabilities[choice] for choice, number in zip(form.choices, form.numbers, strict=True)
        )
    value: str | int | bool = text
    if form.kind == "digit":
        value = int(text)
    elif form.kind == "yes_no":
        value = text == form.choices[0]
    return IntrinsicValue(value, probability, probabilities)


def choice_probabilities(choices: Sequence[str], logprobs: Sequence[TokenChances]) -> dict[str, float]:
    """Return how likely each choice was, by the tokens that the answer has and those that it might have had.

    Where the tokens so far fit several choices, the next token decides between them. An alternative that fits several
    counts for each of them in equal parts: nothing is known of what would have followed it. They sum to 1.

    Args:
        choices: all that were possible.
        logprobs: of the answer's tokens.

    Returns:
        Nothing for choices that no token stands for; nothing at all without log-probabilities.
    """
    found: dict[str, float] = {}
    begun, mass = "", 1.0
    for position in logprobs:
        if len(_fitting(choices, begun)) < 2:
            break
        chosen = position.chosen.token
        options = {chosen: position.chosen.logprob} | {
            other.token: other.logprob for other in position.alternatives if other.token != chosen
        }
        total = sum(math.exp(logprob) for logprob in options.values()) or 1.0
        for token, logprob in options.items():
            fitting = _fitting(choices, (begun + token).lstrip()) or [choice for choice in choices if choice == begun]
            if token == chosen and len(fitting) > 1:
                continue
            for choice in fitting:
                found[choice] = found.get(choice, 0.0) + mass * math.exp(logprob) / total / len(fitting)
        mass *= math.exp(position.chosen.logprob) / total
        begun = (begun + chosen).lstrip()
    whole = sum(found.values())
    return {choice: chance / whole for choice, chance in found.items()} if whole > 0 else {}


def _fitting(choices: Sequence[str], begun: str) -> list[str]:
    return [choice for choice in choices if choice.startswith(begun)]


def _json(form: JsonForm, answer: RawAnswer, asked: Asked) -> IntrinsicValue:
    if form.config:
        from aloraserve.adapters.intrinsics.granite_answers import transformed

        value = transformed(form.config, answer, asked)
    else:
        value = parse_json(answer.text, answer.is_cut_off)
    return IntrinsicValue(value, _probability(value) if form.has_likelihood else None)


def parse_json(text: str, is_cut_off: bool) -> Any:
    """Return the JSON value that an answer is.

    Raises:
        UnusableAnswerError: it is none.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _cut_off() if is_cut_off else UnusableAnswerError("the answer is not JSON") from None


def _probability(value: Any) -> float | None:
    """Return the one number of a value such as 0.75 or {"certainty": 0.75}."""
    if isinstance(value, dict):
        numbers = [entry for entry in value.values() if type(entry) in (int, float)]
        value = numbers[0] if len(numbers) == 1 else None
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _some(choices: Sequence[str]) -> str:
    shown = ", ".join(repr(choice[:20]) for choice in choices[:8])
    return f"{shown} and {len(choices) - 8} more" if len(choices) > 8 else shown


def _cut_off() -> UnusableAnswerError:
    return UnusableAnswerError("the answer was cut off; the intrinsic's parameters give it too few tokens")
