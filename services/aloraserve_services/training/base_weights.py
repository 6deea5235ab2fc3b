"""The base model's weights: loaded from safetensors, and named by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from aloraserve.errors import StartError
from aloraserve_services.models.hardware import Dtype, preferred_dtype


def chosen_dtype(asked: Literal["auto", "float32", "bfloat16"]) -> Dtype:
    """Return the dtype of the base model's weights: bfloat16 where the hardware multiplies it.

    Args:
        asked: of the spec.
    """
    import torch

    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return preferred_dtype(device="cpu")


def load_base(path: Path, dtype: Dtype) -> Any:
    """Return the base model on the device that is trained on: CUDA's first, or the CPU.

    Raises:
        StartError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Its bars and hints are about loading alone.
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise StartError(f"the base model in {path.name} cannot be loaded: {error}") from error
    return model.to("cuda:0" if torch.cuda.is_available() else "cpu")


def base_digest(path: Path) -> str:
    """Return a hex SHA-256 of a base model: its config and all its weights.

    Raises:
        StartError: a file cannot be read.
    """
    whole = hashlib.sha256()
    try:
        for file in [path / "config.json", *sorted(path.glob("*.safetensors"))]:
            with file.open("rb") as content:
                whole.update(hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise StartError(f"the base model in {path.name} cannot be read: {error.strerror}") from error
    return whole.hexdigest()
