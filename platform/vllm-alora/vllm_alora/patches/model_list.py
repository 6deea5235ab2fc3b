"""The kind of each adapter in ``/v1/models`` (``vllm/entrypoints/openai/models/serving.py``)."""

from __future__ import annotations

import functools
import sys
from typing import Any

from vllm_alora.adapters import ADAPTERS
from vllm_alora.patches.seam import replace

MODULE = "vllm.entrypoints.openai.models.serving"


def apply() -> None:
    """Wrap ``OpenAIServingModels.show_available_models`` where a server has been imported."""
    module = sys.modules.get(MODULE)
    if module is not None:
        replace(module.OpenAIServingModels, "show_available_models", _wrap)


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    async def show_available_models(self: Any) -> Any:
        models = await original(self)
        for card in models.data:
            adapter = self.lora_requests.get(card.id)
            if adapter is not None and ADAPTERS.knows(adapter):
                invocation = ADAPTERS.invocation(adapter)
                card.kind = "lora" if invocation is None else "alora"
                if invocation is not None:
                    card.alora_invocation_tokens = list(invocation)
        return models

    return show_available_models
