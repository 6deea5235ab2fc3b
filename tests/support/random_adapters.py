"""PEFT adapters of random weights that visibly change answers, for any base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_random_adapter(
    folder: Path, base: Path, *, invocation: str | None, intrinsic: dict[str, Any], rank: int = 4, seed: int = 0
) -> Path:
    """Write an adapter with PEFT, and its intrinsic beside it.

    Args:
        folder: where to.
        base: folder of the base model.
        invocation: text that invokes it, None for a plain LoRA.
        intrinsic: as in ``aloraserve.json``.
        rank: of its matrices.
        seed: of its weights.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = None if invocation is None else tokenizer(invocation, add_special_tokens=False)["input_ids"]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "k_proj", "v_proj"],
        alora_invocation_tokens=ids,
    )
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    sidecar = {"intrinsic": intrinsic} | ({} if invocation is None else {"invocation_text": invocation})
    (folder / "aloraserve.json").write_text(json.dumps(sidecar))
    return folder
