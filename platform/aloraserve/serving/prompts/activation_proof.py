"""The proof that an adapter would act: an example conversation in tokens, with the place from which it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.checks.activation import ActivationProof, ShownToken
from aloraserve.adapters.problems import Problem, ProblemCode, shown
from aloraserve.blocks import KeySpace, activation_point
from aloraserve.errors import AloraserveError
from aloraserve.serving.prompts.chat_prompts import ChatPrompts
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.serving.prompts.invocations import Invocation
from aloraserve.serving.prompts.prompt import Prompt

MAX_BEFORE, MAX_AFTER = 256, 512
"""Tokens that are shown before and after the activation point."""
EXAMPLE = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris is the capital of France."},
)
"""The conversation of an adapter that has no example of its own."""
_CONFIG = "adapter_config.json"


class ActivationProver:
    """Proves activations with one base model's tokenizer and chat template. May be used by any number of threads.

    Args:
        tokenizer: of the base model, with its chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = Encoder(tokenizer)
        self._chats = ChatPrompts(tokenizer, self._encoder, KeySpace("proof", "proof", 16), max_tokens=0)

    def prove(self, adapter: AdapterVersion, example: Sequence[dict[str, str]] = ()) -> ActivationProof:
        """Return the proof of an adapter, with its problems; never raises for what an adapter may hold.

        Args:
            adapter: that was checked.
            example: a conversation for it, messages with role and content; :data:`EXAMPLE` if it is empty.
        """
        outside = [number for number in adapter.invocation_ids if number >= self._encoder.size]
        if outside:
            return self._failed(adapter, None, _outside(outside, self._encoder.size))
        try:
            invocation = self._chats.invocation(adapter)
            if drift := self._drift(adapter, invocation):
                return self._failed(adapter, invocation, drift)
            chat = self._chats.render(example or EXAMPLE, {}, adapter, None, _values(invocation, example or EXAMPLE))
            return self._shown(adapter, invocation, self._chats.complete(chat))
        except AloraserveError as error:
            return self._failed(adapter, None, Problem(ProblemCode.ACTIVATION, "", error.message))

    def _failed(self, adapter: AdapterVersion, invocation: Invocation | None, problem: Problem) -> ActivationProof:
        mode, text = (invocation.mode, invocation.text) if invocation else (adapter.invocation_mode, "")
        text = text or adapter.invocation_text
        return ActivationProof(mode, text, adapter.invocation_ids, problems=(problem,))

    def _shown(self, adapter: AdapterVersion, invocation: Invocation | None, prompt: Prompt) -> ActivationProof:
        ids, place = prompt.token_ids, prompt.activation or 0
        return ActivationProof(
            invocation.mode if invocation else None,
            invocation.text if invocation else "",
            invocation.ids if invocation else (),
            before=self._tokens(ids[max(0, place - MAX_BEFORE) : place]),
            after=self._tokens(ids[place : place + MAX_AFTER]),
            prompt_tokens=len(ids),
            activation=place,
            problems=tuple(_repeated(invocation, ids[:place])),
        )

    def _tokens(self, ids: Sequence[int]) -> tuple[ShownToken, ...]:
        decode = self._tokenizer.decode
        return tuple(ShownToken(number, str(decode([number], skip_special_tokens=False))) for number in ids)

    def _drift(self, adapter: AdapterVersion, invocation: Invocation | None) -> Problem | None:
        """Return what is wrong with an invocation whose text and tokens are not each other's."""
        if invocation is None or not adapter.invocation_text:
            return None
        text, ids = adapter.invocation_text, invocation.ids
        if self._decoded(ids) == text:
            return None
        own = tuple(self._encoder.ids(text))
        if own == ids:
            return None
        found = (
            f"has the tokens {shown(list(ids))}, which are {shown(self._decoded(ids))} in the base model's tokenizer"
        )
        accepted = f"{shown(list(own))}, those of its invocation_text {shown(text)}"
        return Problem(ProblemCode.ACTIVATION, _CONFIG, found, accepted)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def prover_of(tokenizer: Any) -> Callable[[AdapterVersion, Sequence[dict[str, str]]], ActivationProof] | None:
    """Return what proves adapters, None for a base model without a chat template, which has no conversations."""
    return ActivationProver(tokenizer).prove if getattr(tokenizer, "chat_template", None) else None


def _values(invocation: Invocation | None, example: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """Return a value for each field of an instruction: its name; None if the example ends with the instruction."""
    instruction = invocation.instruction if invocation else None
    if instruction is None or instruction.asked_in(example[-1]["content"]) is not None:
        return None
    return {name: name for name in instruction.fields}


def _outside(ids: Sequence[int], size: int) -> Problem:
    found = f"has the invocation token {ids[0]}, which the base model's tokenizer does not have"
    return Problem(ProblemCode.ACTIVATION, _CONFIG, found, f"token ids from 0 to {size - 1}")


def _repeated(invocation: Invocation | None, before: list[int]) -> list[Problem]:
    """Return what is wrong with an example that invokes the adapter before the gateway does."""
    if invocation is None or invocation.mode is InvocationMode.GENERATION_PROMPT:
        return []
    place = activation_point(before, invocation.ids)
    if place is None:
        return []
    found = f"is invoked twice in the example, first at token {place}; only the gateway's invocation counts"
    return [Problem(ProblemCode.ACTIVATION, "", found, "an example without the invocation, which the gateway places")]
