"""The folder that is exported: a GGUF of the base model, and one for each adapter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aloraserve.adapters import AdapterVersion
from aloraserve_services.extras import require
from aloraserve_services.models.gguf_export.adapter import write_adapter
from aloraserve_services.models.gguf_export.base_model import write_base
from aloraserve_services.models.gguf_export.llama_config import LlamaConfig
from aloraserve_services.models.gguf_export.stored_type import StoredType


def export_gguf(
    folder: Path,
    base: tuple[str, Path],
    versions: Sequence[AdapterVersion],
    *,
    stored: StoredType = "f16",
    with_base: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write ``<base>.gguf`` and, for each adapter, ``<name>.gguf``.

    Args:
        folder: made here; whoever looks sees all of it or nothing.
        base: the base model's name and folder.
        versions: of adapters, checked for that model.
        stored: type of the matrices' numbers; vectors are always float32.
        with_base: whether the model itself is written too.
        progress: called with what happens, in sentences.

    Raises:
        FileExistsError: there is something already.
        SettingsError: the model is of a kind that is not exported; says which are.
        InvalidAdapterError: an adapter's numbers do not fit the type.
        StartError: the extra ``train`` is not installed.
        OSError: the disk is full or cannot be written.
    """
    require("train", "a GGUF file", "gguf", "torch")
    if folder.exists():
        raise FileExistsError(f"{folder.name!r} is there already; name a folder that is not")
    name, model_path = base
    config = LlamaConfig.read(model_path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if with_base:
            progress(f"Writing {name}.gguf")
            write_base(work / f"{name}.gguf", name, model_path, config, stored)
        for version in versions:
            progress(f"Writing {version.name}.gguf")
            write_adapter(work / f"{version.name}.gguf", version, config, stored)
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
