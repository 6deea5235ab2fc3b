"""The engine whose times are measured on a GPU: Llama 3.1 8B's shape, random weights, one LoRA in both kinds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("benchmarks", "tests")]

from engine import Engine, set_environment  # noqa: E402
from subject import Subject, find_subject  # noqa: E402
from tiny import write_tokenizer  # noqa: E402

SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
"""Llama 3.1 8B's config.json, without the scaling of its positions, which changes no time."""

LENGTHS = (2048, 8192, 32_768)
SETTINGS: dict[str, Any] = {
    "load_format": "dummy",
    "max_model_len": LENGTHS[-1] + 1024,
    "max_num_batched_tokens": 8192,
    "kv_cache_memory_bytes": 24 << 30,
    "enforce_eager": False,
}
SIZES = [1, 2, 4, 8, 16, 32, 64]
QUICK: dict[str, Any] = {
    "kernel_config": {"enable_jit_warmup": False},
    "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": SIZES},
}
"""CUDA graphs for decoding, no torch.compile: starts in half a minute."""
COMPILED: dict[str, Any] = {"compilation_config": {"cudagraph_capture_sizes": SIZES}}
"""vLLM's defaults, but for fewer sizes of graphs: torch.compile, graphs for prefills of up to 64 tokens too."""


def start(scratch: Path, seed: int = 0) -> tuple[Subject, Engine]:
    """Write configuration and adapters into a folder and start the engine with both kinds of adapter."""
    set_environment()
    attention = os.environ.get("ALORA_CHECK_ATTENTION")
    is_compiled = bool(os.environ.get("ALORA_CHECK_COMPILE"))
    changes = {**(COMPILED if is_compiled else QUICK), **({"attention_backend": attention} if attention else {})}
    folder = scratch / "llama-8b-shape"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPE))
    write_tokenizer(folder)
    subject = find_subject(folder, None, "bfloat16", scratch / "adapters", seed)
    engine = Engine(subject.model, "bfloat16", (subject.alora, subject.lora), **SETTINGS, **changes)
    kind = "torch.compile and vLLM's default graphs" if is_compiled else "CUDA graphs for decoding, no torch.compile"
    print(f"  {engine.settings}; {kind}", flush=True)
    return subject, engine
