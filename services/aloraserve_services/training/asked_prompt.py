"""A row as the request that the gateway would make of it: the same for training and for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from aloraserve.adapters import AdapterVersion
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.adapters.intrinsics.answers import Asked
from aloraserve.blocks import KeySpace
from aloraserve.errors import AloraserveError
from aloraserve.serving.intrinsics.question import question
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.training import TrainingRow
from aloraserve.training.row_forms import RowError
from aloraserve.training.rows import gateway_fault
from aloraserve.wire.fields import FieldError

NO_SPACE = KeySpace("training", "training", 1024)
"""Of prompts whose keys are not needed; the fewer blocks, the less time they take."""
_ORIGIN = Origin("training", UNTENANTED, 0.0)


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A row as a model is asked about it.

    Args:
        request: with the prompt in tokens.
        asked: what the answer's numbers of sentences refer to.
    """

    request: GenerationRequest
    asked: Asked


async def asked_prompt(
    prompts: PromptBuilder,
    row: TrainingRow,
    model: str,
    spec: IntrinsicSpec | None,
    fields: Mapping[str, str],
    adapter: AdapterVersion | None,
) -> AskedPrompt:
    """Return the request that the gateway would make of a row.

    Args:
        prompts: the gateway's builder.
        row: of the data.
        model: that answers, by name.
        spec: of the intrinsic, None for a plain chat.
        fields: of its instruction.
        adapter: that answers, None for the base model.

    Raises:
        RowError: the gateway would not accept it.
    """
    try:
        body, asked = row.chat(model), Asked()
        if spec is not None:
            made = question(body, model, spec, fields)
            body, asked = made.body, made.asked
        return AskedPrompt(await prompts.chat(body, _ORIGIN, adapter=adapter), asked)
    except AloraserveError as error:
        raise RowError(f"would not be accepted by the gateway: {error.message[:300]}") from None
    except (FieldError, msgspec.ValidationError) as error:
        raise RowError(f"would not be accepted by the gateway: {gateway_fault(error)}") from None
