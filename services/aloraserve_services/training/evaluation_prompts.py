"""Rows as the prompts of each arm, made by the very code that makes prompts of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.answers import Asked
from aloraserve.errors import TrainingError
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.training import TrainingRow
from aloraserve.training.row_forms import RowError
from aloraserve_services.models.generation_defaults import embedding_count, sampling_defaults
from aloraserve_services.training.asked_prompt import NO_SPACE, asked_prompt
from aloraserve_services.training.reference_model import ReferencePrompt

BASE = "base"


@dataclass(frozen=True, slots=True)
class AskedRow:
    """A row as one arm is asked about it.

    Args:
        prompt: in tokens.
        asked: what the answer's numbers of sentences refer to.
    """

    prompt: ReferencePrompt
    asked: Asked


class EvaluationPrompts:
    """Makes prompts for a base model and its adapters. For one event loop.

    Args:
        model_path: of the base model.
        tokenizer: of it, with its chat template.
        adapters: by key.
        context: tokens that the model has room for.
    """

    def __init__(
        self, model_path: Path, tokenizer: Any, adapters: Mapping[str, AdapterVersion], *, context: int
    ) -> None:
        self._adapters = adapters
        self._prompts = PromptBuilder(
            tokenizer,
            NO_SPACE,
            base_model=BASE,
            max_model_len=context,
            resolve=self._resolve,
            embeddings=embedding_count(model_path),
            defaults=sampling_defaults(model_path, "auto"),
        )

    async def ask(self, row: TrainingRow, adapter: str | None, spec: IntrinsicSpec) -> AskedRow:
        """Return what an arm is asked about a row.

        Args:
            row: of the data.
            adapter: key of the adapter, None for the base model.
            spec: what is asked, and the form that the answer is held to.

        Raises:
            TrainingError: the gateway would not accept it, or would not answer greedily; names the row.
        """
        version = None if adapter is None else self._adapters[adapter]
        fields = row.fields if spec.fields else {}
        try:
            found = await asked_prompt(self._prompts, row, adapter or BASE, spec, fields, version)
        except RowError as error:
            raise TrainingError(f"{row.file}:{row.line} {error.found}") from None
        request = found.request
        if not request.sampling.is_greedy:
            raise TrainingError(
                f"the intrinsic has the temperature {request.sampling.temperature:g}; 0 is accepted, because answers "
                "are compared one by one"
            )
        prompt = ReferencePrompt(adapter, request.token_ids, request.activation, request.sampling)
        return AskedRow(prompt, found.asked)

    async def _resolve(self, name: str, **_: object) -> AdapterVersion:
        return self._adapters[name]


def told(spec: IntrinsicSpec, instruction: str | None) -> IntrinsicSpec:
    """Return a spec with another instruction, None for none; without the fields of the old one."""
    return replace(spec, instruction=instruction, fields=())
