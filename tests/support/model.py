"""SmolLM2, really converted, once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aloraserve_services.models.model_files import ensure_smollm2


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
def model_path(state_dir: Path) -> Path:
    return ensure_smollm2(state_dir, dtype="bfloat16")


@pytest.fixture(scope="session")
def tokenizer(model_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
