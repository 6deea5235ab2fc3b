"""A llama with random weights and SmolLM2's tokenizer, small enough to train in a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_tiny_llama(folder: Path, tokenizer_folder: Path | None = None, **changes: Any) -> Path:
    """Write the model and return its folder.

    Args:
        folder: to write.
        tokenizer_folder: of SmolLM2; None for a model without a tokenizer.
        changes: to its config.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = {
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        # Large enough that what stands before changes what comes after.
        "initializer_range": 0.2,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    LlamaForCausalLM(LlamaConfig(**(config | changes))).save_pretrained(folder)
    if tokenizer_folder is not None:
        for name in TOKENIZER_FILES:
            shutil.copy(tokenizer_folder / name, folder / name)
    return folder
