"""Adapters with random weights, to try the platform out: an intrinsic's cost and reuse, not what its answers mean.

Each is an intrinsic with a spec: three of our own in ``aloraserve.json``, one in granite's ``io.yaml``.

Each intrinsic gets an aLoRA adapter and a twin, ``<name>-lora``: the same weights as a plain LoRA, which is
what the aLoRA's reuse is compared with.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aloraserve.adapters import BaseShape
from aloraserve.adapters.intrinsics import IO_YAML_FILE
from aloraserve.adapters.peft_files import CONFIG_FILE, SIDECAR_FILE, WEIGHTS_FILE, check_name
from aloraserve_services.extras import require

INTRINSICS = ("uncertainty", "safety", "hallucination")
PIPELINE = (*INTRINSICS, "answerability")
"""The intrinsics of a RAG pipeline (arXiv 2504.12397)."""
TWIN_SUFFIX = "-lora"
RANK = 32
TARGETS = ("q_proj", "k_proj", "v_proj")
B_SCALE = 0.02
STAMP_FILE = "stamp.json"

_INVOCATION_WORDS = {"uncertainty": "certainty"}
_YES_NO: dict[str, Any] = {"output": {"form": "yes_no"}, "documents": "string"}
_OWN_SPECS: dict[str, dict[str, Any]] = {
    "uncertainty": {"output": {"form": "digit"}, "documents": "string"},
    "answerability": {
        "output": {"form": "choice", "choices": ["answerable", "unanswerable"], "probabilities": [1, 0]},
        "documents": "string",
        "guard": {"threshold": 0.5, "refuses": "below"},
    },
}
"""In ``aloraserve.json``; of any other name it is a question of yes or no."""
_IO_YAMLS = {
    "hallucination": """\
model: ~
response_format: '{"type": "string", "enum": ["yes", "no"]}'
transformations:
  - type: likelihood
    input_path: []
    categories_to_values: {"yes": 1.0, "no": 0.0}
  - type: nest
    input_path: []
    field_name: hallucination_likelihood
docs_as_message: string
parameters: {max_completion_tokens: 12, temperature: 0.0}
"""
}


def invocation_text(name: str) -> str:
    """Return what a prompt ends with to invoke the untrained adapter ``name``.

    It starts with a special token, so it is tokenized apart from whatever stands before it.
    """
    return f"<|im_start|>{_INVOCATION_WORDS.get(name, name)}\n"


def write_untrained_adapters(
    root: Path, model_path: Path, seed: int = 0, names: Sequence[str] = INTRINSICS
) -> list[Path]:
    """Write an aLoRA adapter and its plain LoRA twin for each name; return the folders, in that order.

    Args:
        root: where the folders go.
        model_path: the base model.
        seed: equal seeds give equal weights.
        names: of the intrinsics.

    Raises:
        InvalidAdapterError, SettingsError, StartError: see :func:`write_untrained_folders`.
    """
    return write_untrained_folders(
        root, model_path, [f"{name}{suffix}" for name in names for suffix in ("", TWIN_SUFFIX)], seed
    )


def write_untrained_folders(root: Path, model_path: Path, names: Sequence[str], seed: int = 0) -> list[Path]:
    """Write an adapter for each name, a plain LoRA where it ends in :data:`TWIN_SUFFIX`; return the folders.

    A folder that this function wrote earlier with the same seed for the same model is left as it is, and so
    is one that it did not write: a trained adapter may stand in its place.

    Args:
        root: where the folders go.
        model_path: the base model, for its shape and its tokenizer.
        names: of the adapters.
        seed: equal seeds give equal weights.

    Raises:
        InvalidAdapterError: a name cannot be served.
        SettingsError: the model's shape cannot be read.
        StartError: there are adapters to write and the extra ``demo`` is not installed.
    """
    root.mkdir(parents=True, exist_ok=True)
    stamp = {"seed": seed, "model": _model_digest(model_path), "recipe": _recipe()}
    folders = [root / name for name in names]
    stale = [folder for folder in folders if not _is_current(folder, stamp)]
    if stale:
        require("demo", "writing untrained adapters", "torch")
        base, tokenizer = BaseShape.read(model_path), _tokenizer(model_path)
        for folder in stale:
            check_name(folder.name)
            name = folder.name.removesuffix(TWIN_SUFFIX)
            twin = folder.name != name
            ids = None if twin else tokenizer.encode(invocation_text(name), add_special_tokens=False)
            _write_folder(folder, _config(model_path.name, ids), _weights(base, name, seed), stamp)
    return folders


def twin_adapters(state_dir: Path, model_path: Path) -> Path:
    """Write what measurements compare into the state folder, unless it is there; return the folder.

    Each aLoRA has a LoRA twin of the same weights and rank, whatever trained ones there are: their ranks differ.
    """
    folder = state_dir / "twin-adapters" / model_path.name
    write_untrained_adapters(folder, model_path, names=PIPELINE)
    return folder


def _recipe() -> str:
    """Return a digest of what else decides an adapter's content, so that a changed recipe is written again."""
    return hashlib.sha256(
        repr((RANK, TARGETS, B_SCALE, _INVOCATION_WORDS, _YES_NO, _OWN_SPECS, _IO_YAMLS)).encode()
    ).hexdigest()[:16]


def _model_digest(model_path: Path) -> str:
    """Return a digest of what the adapters depend on: the shapes and the tokenizer."""
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = model_path / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    return digest.hexdigest()


def _is_current(folder: Path, stamp: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    try:
        return bool(json.loads((folder / STAMP_FILE).read_text()) == stamp)
    except FileNotFoundError:
        return True
    except ValueError:
        return False


def _tokenizer(model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)


def _config(model_name: str, invocation_ids: list[int] | None) -> dict[str, Any]:
    """Return the config as PEFT's ``LoraConfig`` and vLLM's ``PEFTHelper`` read it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model_name,
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "alora_invocation_tokens": invocation_ids,
    }


def _weights(base: BaseShape, name: str, seed: int) -> dict[str, Any]:
    """Return the tensors: A keeps its input's scale, B is small: outputs change visibly and stay finite."""
    tensors = {}
    for layer in range(base.layers):
        for linear in TARGETS:
            inputs, outputs = base.linears()[linear]
            key = f"base_model.model.model.layers.{layer}.self_attn.{linear}"
            shapes = {"lora_A": ((RANK, inputs), 1 / math.sqrt(inputs)), "lora_B": ((outputs, RANK), B_SCALE)}
            for side, (shape, scale) in shapes.items():
                whole = f"{key}.{side}.weight"
                tensors[whole] = _normal(shape, scale, f"{seed}/{name}/{whole}")
    return tensors


def _normal(shape: tuple[int, int], scale: float, label: str) -> Any:
    import torch

    state = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(state)
    return (torch.randn(shape, generator=generator) * scale).to(torch.bfloat16)


def _spec_files(name: str) -> dict[str, Any]:
    """Return the files that say what an adapter is and asks; a twin asks the same."""
    intrinsic = name.removesuffix(TWIN_SUFFIX)
    sidecar: dict[str, Any] = {"untrained": True, "description": "Random weights: shows cost and reuse, not an answer."}
    if intrinsic in _IO_YAMLS:
        return {SIDECAR_FILE: sidecar, IO_YAML_FILE: _IO_YAMLS[intrinsic]}
    return {SIDECAR_FILE: sidecar | {"intrinsic": _OWN_SPECS.get(intrinsic, _YES_NO)}}


def _write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Any], stamp: dict[str, Any]) -> None:
    """Write an adapter in one step: a reader sees the whole folder or none."""
    from safetensors.torch import save_file

    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_file(tensors, work / WEIGHTS_FILE, metadata={"format": "pt"})
        for name, content in {CONFIG_FILE: config, STAMP_FILE: stamp, **_spec_files(folder.name)}.items():
            (work / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=2) + "\n")
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
