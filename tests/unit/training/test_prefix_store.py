"""The store of prefixes keeps its bound, and does not look at every file for each block that it has no room for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from aloraserve_services.training.prefix_store import BlockShape, KeysValues, PrefixStore

SHAPE = BlockShape(layers=1, heads=1, key_size=64, value_size=64, dtype=torch.float32)
TOKENS = 16
SIZE = SHAPE.block_bytes(TOKENS)


def block() -> KeysValues:
    return KeysValues(torch.ones(1, 1, TOKENS, 64), torch.zeros(1, 1, TOKENS, 64))


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_files_of_others_count_and_the_oldest_make_room(tmp_path: Path) -> None:
    for number, place in enumerate(("ab", "another-base/cd")):
        (tmp_path / place).mkdir(parents=True)
        old = tmp_path / place / f"{number}.safetensors"
        old.write_bytes(b"x" * SIZE)
        os.utime(old, (number, number))
    store = PrefixStore(tmp_path, SHAPE, 3 * SIZE, {"a1", "a2"})
    assert store.write("a1", block())
    assert "0.safetensors" in sizes(tmp_path)
    assert store.write("a2", block())
    assert sizes(tmp_path).keys() == {"1.safetensors", "a1.safetensors", "a2.safetensors"}


def test_a_full_store_does_not_look_at_every_file_for_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PrefixStore(tmp_path, SHAPE, SIZE + SIZE // 2, {"a1", "a2"})
    assert store.write("a1", block())
    looks: list[Any] = []
    files = PrefixStore._files

    def look(self: PrefixStore) -> Any:
        looks.append(self)
        return files(self)

    monkeypatch.setattr(PrefixStore, "_files", look)
    assert not any(store.write("a2", block()) for _ in range(60))
    assert len(looks) <= 1
    assert list(sizes(tmp_path)) == ["a1.safetensors"]
