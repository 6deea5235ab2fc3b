"""The adapter as PEFT has it: made new, and as tensors to be written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.training.base_weights import load_base


def new_adapter(base_path: Path, dtype: Dtype, spec: TrainingSpec, invocation_ids: Sequence[int]) -> Any:
    """Return a ``PeftModel`` whose adapter changes nothing yet; its weights follow from the seed.

    Args:
        base_path: folder of the base model.
        dtype: of its weights; the adapter's are in float32.
        spec: of the training.
        invocation_ids: tokens of an aLoRA's invocation.

    Raises:
        StartError: the base model cannot be loaded.
        TrainingError: it has no such linears.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    lora = spec.lora
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        alora_invocation_tokens=list(invocation_ids) if spec.kind == "alora" else None,
    )
    base = load_base(base_path, dtype)
    torch.manual_seed(spec.training.seed)
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        line = spec.line("lora", "targets")
        raise TrainingError(f"{spec.path.name}:{line} has lora.targets {list(lora.targets)}: {error}") from error


def saved_tensors(model: Any, dtype: Dtype) -> dict[str, Any]:
    """Return the adapter's tensors as they are written, by PEFT's names; the model gets the same rounded values.

    So metrics that are computed afterwards are those of what is written.
    """
    import torch
    from peft import get_peft_model_state_dict

    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.copy_(value.to(getattr(torch, dtype)))
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: value.detach().to("cpu", getattr(torch, dtype)).contiguous() for name, value in state.items()}


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """Return a hex SHA-256 of tensors and their names."""
    import torch

    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(name.encode() + b"\0" + value.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
