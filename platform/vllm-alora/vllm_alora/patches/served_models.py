"""What vLLM's server says of adapters (``vllm/entrypoints/openai/models/serving.py``): kinds, and refused loads.

``/v1/models`` shows each adapter's kind. ``/v1/load_lora_adapter`` answers every error of the engine with a 500,
whatever its type; an adapter whose configuration is at fault is the caller's to change, so that becomes a 400.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any

from vllm_alora.adapter_files import local_folder
from vllm_alora.adapters import ADAPTERS
from vllm_alora.patches.seam import replace
from vllm_alora.setups import refuse_load

MODULE = "vllm.entrypoints.openai.models.serving"


def apply() -> None:
    """Wrap two functions of ``OpenAIServingModels`` where a server has been imported."""
    module = sys.modules.get(MODULE)
    if module is not None:
        replace(module.OpenAIServingModels, "show_available_models", _wrap_list)
        replace(module.OpenAIServingModels, "load_lora_adapter", _wrap_load, "request")


def _wrap_list(original: Any) -> Any:
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


def _wrap_load(original: Any) -> Any:
    @functools.wraps(original)
    async def load_lora_adapter(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await original(self, request, *args, **kwargs)
        if getattr(getattr(answer, "error", None), "code", None) != 500:
            return answer
        refused = await asyncio.to_thread(_refused, self.engine_client.vllm_config, request)
        return answer if refused is None else refused

    return load_lora_adapter


def _refused(config: Any, request: Any) -> Any:
    """Return a 400 if the configuration of an adapter that could not be loaded is at fault, by the workers' checks."""
    from vllm.entrypoints.serve import create_error_response
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest(request.lora_name, 1, request.lora_path)
    folder = local_folder(adapter)
    try:
        refuse_load(config, adapter)
        if folder is not None:
            PEFTHelper.from_local_dir(str(folder), None).validate_legal(config.lora_config)
    except (ValueError, VLLMValidationError) as error:
        return create_error_response(str(error))
    return None
