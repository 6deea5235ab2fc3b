"""SmolLM2, really converted, once a session; for all runs of ``tests/lanes.py`` once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from aloraserve_services.models.model_files import ModelDtype, ensure_smollm2

MODELS = "TESTED_MODELS"
"""Names the folder that several runs share."""


def smollm2(state_dir: Path, dtype: ModelDtype) -> Path:
    """Return SmolLM2's folder in a state folder: of its own, or of the files that all runs share."""
    if MODELS in os.environ:
        ensure_smollm2(Path(os.environ[MODELS]), dtype=dtype)
        link_models(Path(os.environ[MODELS]), state_dir)
    return ensure_smollm2(state_dir, dtype=dtype)


def link_models(state_dir: Path, other: Path) -> None:
    """Give another state folder the same model files; no test writes to them."""
    for folder in (state_dir / "models").iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            shutil.copytree(folder, other / "models" / folder.name, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def model_path(state_dir: Path) -> Path:
    return smollm2(state_dir, "bfloat16")


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
