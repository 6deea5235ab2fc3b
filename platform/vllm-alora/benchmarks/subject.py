"""Subject of the measurement: a base model, and one set of random weights as an aLoRA adapter and as a plain LoRA."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from random_model import write_random_model

RANK = 32
TARGETS = ("q_proj", "k_proj", "v_proj")
B_SCALE = 0.02
MODEL_FILE = "config.json"
ADAPTER_FILE = "adapter_config.json"
PLAIN_TOKENS = 100
"""Token ids below this are special in common tokenizers; random prompts have none."""


class SubjectError(Exception):
    """Raised when there is no model or no pair of adapters to measure; says what to pass."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and the tokens that invoke it (none for a plain LoRA)."""

    name: str
    path: Path
    invocation: tuple[int, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model and the pair of adapters.

    Attributes:
        model: its folder.
        alora: the aLoRA adapter.
        lora: the plain LoRA that it is compared with.
        has_random_model: whether the model was made for this run, with random weights.
        has_random_adapters: whether the pair was.
        vocabulary: how many tokens the model knows.
    """

    model: Path
    alora: Adapter
    lora: Adapter
    has_random_model: bool
    has_random_adapters: bool
    vocabulary: int

    def tokens(self, count: int, generator: random.Random) -> list[int]:
        """Return ``count`` random ordinary tokens, which are never the invocation's first one."""
        first = self.alora.invocation[0]
        drawn = generator.choices(range(PLAIN_TOKENS + 1, self.vocabulary - PLAIN_TOKENS), k=count)
        return [PLAIN_TOKENS if token == first else token for token in drawn]


def find_subject(model: Path | None, adapters: Path | None, dtype: str, scratch: Path, seed: int) -> Subject:
    """Return the model and adapters that were asked for; make what was not.

    Args:
        model: a folder that vLLM can load; None for random weights in SmolLM2-135M's shape.
        adapters: a folder of adapter folders with an aLoRA and a plain LoRA; None for a pair of random weights.
        dtype: of the random model.
        scratch: where random weights are written.
        seed: of the random weights.

    Raises:
        SubjectError: there is no such model or pair.
    """
    folder = model.expanduser().resolve() if model else write_random_model(scratch / "random-135m", dtype, seed)
    if not (folder / MODEL_FILE).is_file():
        raise SubjectError(f"--model {folder} has no {MODEL_FILE}; pass the folder of a model")
    pair = _write_pair(folder, scratch, seed) if adapters is None else _find_pair(adapters.expanduser().resolve())
    vocabulary = int(json.loads((folder / MODEL_FILE).read_text())["vocab_size"])
    return Subject(folder, *pair, model is None, adapters is None, vocabulary)


def _find_pair(root: Path) -> tuple[Adapter, Adapter]:
    """Return the first aLoRA by name, with its twin ``<name>-lora`` or else the first plain LoRA."""
    found = [_read(path.parent) for path in sorted(root.glob(f"*/{ADAPTER_FILE}"))]
    activated = [adapter for adapter in found if adapter.invocation]
    plain = {adapter.name: adapter for adapter in found if not adapter.invocation}
    if not activated or not plain:
        raise SubjectError(
            f"--adapters {root} needs a folder with an aLoRA adapter ({ADAPTER_FILE} with alora_invocation_tokens) "
            f"and one with a plain LoRA; found {[adapter.name for adapter in found] or 'none'}"
        )
    alora = activated[0]
    return alora, plain.get(f"{alora.name}-lora", next(iter(plain.values())))


def _read(folder: Path) -> Adapter:
    config = json.loads((folder / ADAPTER_FILE).read_text())
    return Adapter(folder.name, folder, tuple(config.get("alora_invocation_tokens") or ()))


def _write_pair(model: Path, root: Path, seed: int) -> tuple[Adapter, Adapter]:
    """Write the same random weights twice, as PEFT would: with an invocation of three tokens, and without."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / MODEL_FILE).read_text())
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for linear, (inputs, outputs) in _shapes(config).items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{linear}"
            a = torch.randn((RANK, inputs), generator=generator) / math.sqrt(inputs)
            b = torch.randn((outputs, RANK), generator=generator) * B_SCALE
            tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a.bfloat16(), b.bfloat16()
    last = config["vocab_size"] - 1
    pair = (Adapter("bench", root / "bench", (last, last - 1, last - 2)), Adapter("bench-lora", root / "bench-lora"))
    for adapter in pair:
        adapter.path.mkdir(parents=True)
        save_file(tensors, adapter.path / "adapter_model.safetensors", metadata={"format": "pt"})
        (adapter.path / ADAPTER_FILE).write_text(json.dumps(_peft_config(adapter.invocation), indent=2) + "\n")
    return pair


def _shapes(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each targeted linear of a Llama-like model."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    shared = head * config.get("num_key_value_heads", heads)
    return dict(zip(TARGETS, ((hidden, head * heads), (hidden, shared), (hidden, shared)), strict=True))


def _peft_config(invocation: tuple[int, ...]) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "alora_invocation_tokens": list(invocation) or None,
    }
