"""Rows as the prompts of each arm, made by the very code that makes prompts of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.answers import Asked
from aloraserve.blocks import KeySpace
from aloraserve.errors import AloraserveError, TrainingError
from aloraserve.serving.intrinsics.question import question
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.training import TrainingRow
from aloraserve.wire.fields import FieldError
from aloraserve_services.models.generation_defaults import embedding_count, sampling_defaults
from aloraserve_services.training.reference_model import ReferencePrompt

BASE = "base"
_NO_SPACE = KeySpace("evaluation", "evaluation", 1024)
"""Keys are not needed; the fewer blocks, the less time they take."""


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
            _NO_SPACE,
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
        where = f"{row.file}:{row.line}"
        try:
            body = row.chat(BASE if adapter is None else adapter)
            made = question(body, body.model, spec, row.fields if spec.fields else {})
            request = await self._prompts.chat(
                made.body,
                Origin("evaluation", UNTENANTED, 0.0),
                adapter=None if adapter is None else self._adapters[adapter],
            )
        except AloraserveError as error:
            raise TrainingError(f"{where} would not be accepted by the gateway: {error.message[:300]}") from None
        except (FieldError, msgspec.ValidationError) as error:
            raise TrainingError(f"{where} would not be accepted by the gateway: {str(error)[:300]}") from None
        if not request.sampling.is_greedy:
            raise TrainingError(
                f"the intrinsic has the temperature {request.sampling.temperature:g}; 0 is accepted, because answers "
                "are compared one by one"
            )
        prompt = ReferencePrompt(adapter, request.token_ids, request.activation, request.sampling)
        return AskedRow(prompt, made.asked)

    async def _resolve(self, name: str, **_: object) -> AdapterVersion:
        return self._adapters[name]


def told(spec: IntrinsicSpec, instruction: str | None) -> IntrinsicSpec:
    """Return a spec with another instruction, None for none; without the fields of the old one."""
    return replace(spec, instruction=instruction, fields=())
