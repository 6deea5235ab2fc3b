"""The trained adapters that come with the project, for SmolLM2-135M-Instruct, and what is served if none are named."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from aloraserve.adapters.peft_files import CONFIG_FILE, read_files
from aloraserve.settings import Settings
from aloraserve_services.models.model_files import is_smollm2
from aloraserve_services.models.untrained import PIPELINE, STAMP_FILE, TWIN_SUFFIX, write_untrained_folders

SHIPPED = Path(__file__).with_name("trained") / "smollm2-135m-instruct"
"""A folder per adapter, as ``aloraserve train`` wrote it."""


def shipped_names() -> tuple[str, ...]:
    """Return the names of the trained adapters that come with the project, twins included."""
    return tuple(sorted(config.parent.name for config in SHIPPED.glob(f"*/{CONFIG_FILE}")))


def demo_adapters(state_dir: Path, model_path: Path) -> Path:
    """Put the adapters of a RAG pipeline into the state folder, unless they are there; return their folder.

    For SmolLM2 they are the trained ones that come with the project, as far as there are; the others, and those of
    any other model, have random weights.

    Args:
        state_dir: the folder is ``<state_dir>/demo-adapters/<name of the model's folder>``.
        model_path: the base model.

    Raises:
        SettingsError: the model's shape cannot be read.
        StartError: there are adapters to write and the extra ``demo`` is not installed.
    """
    folder = state_dir / "demo-adapters" / model_path.name
    folder.mkdir(parents=True, exist_ok=True)
    trained = shipped_names() if is_smollm2(model_path, state_dir) else ()
    wanted = [f"{name}{suffix}" for name in PIPELINE for suffix in ("", TWIN_SUFFIX)]
    write_untrained_folders(folder, model_path, [name for name in wanted if name not in trained])
    for name in trained:
        _put(SHIPPED / name, folder / name)
    return folder


def default_adapters(settings: Settings, model_path: Path) -> Path | None:
    """Return the folder of what a platform serves whose settings name no adapters, None for nothing.

    An engine with a model of one's own gets none: random weights would pass for judgements there, and room for
    adapters costs every call. A simulated engine, which has no weights, gets :func:`demo_adapters` with any model.

    Args:
        settings: of the platform.
        model_path: the base model.

    Raises:
        SettingsError, StartError: see :func:`demo_adapters`.
    """
    if settings.engine != "simulated" and not is_smollm2(model_path, settings.state_dir):
        return None
    return demo_adapters(settings.state_dir, model_path)


def _put(source: Path, target: Path) -> None:
    """Copy an adapter in one step, unless it is there or somebody put another one in its place."""
    stamp = {"shipped": read_files(source).digest}
    if target.exists() and _stamp(target) in (None, stamp):
        return
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        (work / STAMP_FILE).write_text(json.dumps(stamp) + "\n")
        work.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _stamp(folder: Path) -> object:
    """Return what a copy says that it is, None for a folder that nobody of us wrote."""
    try:
        return json.loads((folder / STAMP_FILE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
