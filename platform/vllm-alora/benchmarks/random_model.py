"""A model of random weights, for a machine that has no other: times depend on a model's shape, not on its weights."""

from __future__ import annotations

from pathlib import Path

SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""SmolLM2-135M's (its config.json on the Hugging Face hub)."""


def write_random_model(folder: Path, dtype: str, seed: int, **changes: int) -> Path:
    """Write a Llama model of :data:`SHAPE` with random weights and a word-level tokenizer.

    Args:
        folder: where it goes.
        dtype: of the weights, "bfloat16" or "float32".
        seed: of the weights.
        changes: to the shape.

    Returns:
        The folder.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(**{**SHAPE, **changes})
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(config.vocab_size)}))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder
