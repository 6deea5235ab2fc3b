"""The tiny base model with a tokenizer that llguidance reads, as those of real models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.tiny_llama import change_json


@pytest.fixture(scope="session")
def tiny_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("answering") / "tiny-llama")
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    change_json(folder / "tokenizer.json", decoder=decoder)
    return folder
