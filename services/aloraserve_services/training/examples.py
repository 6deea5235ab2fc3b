"""Rows as token ids, made by the very code that makes prompts of requests: what is trained on is what is served."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.problems import shown
from aloraserve.blocks import activation_point
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.training import TrainingRow, TrainingSpec
from aloraserve.training.row_forms import RowError
from aloraserve_services.training.asked_prompt import NO_SPACE, asked_prompt


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example in tokens: prompt, completion, end token.

    Args:
        token_ids: of all of it; from a builder as an array of four bytes each, a ninth of a list of integers.
        activation: index of the first token that the adapter changes; 0 for a plain LoRA.
        completion_start: index of the first token that is learned; the last one is the end token.
        line: of the row's file.
    """

    token_ids: Sequence[int]
    activation: int
    completion_start: int
    line: int


class ExampleBuilder:
    """Builds examples for one adapter. For one event loop.

    Args:
        spec: of the training.
        tokenizer: of the base model, with its chat template.
        end_token: that ends an answer when it is served.
        context: tokens that the model has room for.

    Attributes:
        version: the adapter as the gateway would know it, without weights. A LoRA twin's has the invocation too: its
            prompts have the same tokens.
    """

    def __init__(self, spec: TrainingSpec, tokenizer: Any, *, end_token: int, context: int) -> None:
        self._spec = spec
        self._intrinsic = spec.intrinsic_spec()
        self._end_token = end_token
        self._special = frozenset(
            number for number, token in tokenizer.added_tokens_decoder.items() if token.special
        ) | set(tokenizer.all_special_ids)
        prompts = PromptBuilder(tokenizer, NO_SPACE, base_model="", max_model_len=context, resolve=self._resolve)
        self._prompts = prompts.unbounded()
        self.version = AdapterVersion(
            name=spec.name,
            kind="alora",
            path=Path(),
            rank=spec.lora.rank,
            target_modules=tuple(sorted(spec.lora.targets)),
            invocation_ids=tuple(prompts.plain_ids(spec.invocation)),
            digest="untrained",
            intrinsic=self._intrinsic,
            invocation_text=spec.invocation,
            invocation_mode=spec.mode,
        )

    async def build(self, row: TrainingRow) -> TrainingExample:
        """Return a row's example, however long it is.

        Raises:
            RowError: the row cannot be served, or could not be learned as it would be served.
        """
        asked = await asked_prompt(
            self._prompts, row, self._spec.name, self._intrinsic, row.fields, adapter=self.version
        )
        request = asked.request
        prompt, activation = request.token_ids, request.activation
        completion = [*self._completion(row.completion), self._end_token]
        most = request.sampling.max_tokens
        if most is not None and len(completion) > most:
            raise RowError(
                f"has a completion of {len(completion)} tokens with the one that ends it",
                f"at most {most}, the max_tokens of the intrinsic's answers",
            )
        ids = [*prompt, *completion]
        found = activation_point(ids, self.version.invocation_ids)
        if found is None or found != activation:
            raise RowError(
                f"has the invocation {shown(self._spec.invocation)} in its completion, which would move the activation "
                f"from token {activation} to token {found}",
                "a completion without it",
            )
        return TrainingExample(array("i", ids), found if self._spec.kind == "alora" else 0, len(prompt), row.line)

    def _completion(self, text: str) -> Sequence[int]:
        ids = self._prompts.plain_ids(text)
        special = next((number for number in ids if number in self._special), None)
        if special is not None:
            token = self._prompts.token_texts([special])[0]
            raise RowError(
                f"has the special token {shown(token)} in its completion, which no answer has",
                "the answer's text alone: the end token is added",
            )
        return ids

    async def _resolve(self, name: str, **_: object) -> AdapterVersion:
        return self.version
