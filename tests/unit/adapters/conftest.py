"""Adapters for a base model of a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.peft_adapters import BASE, write_peft_adapter

from aloraserve.adapters import BaseShape

WriteAdapter = Callable[..., Path]


@pytest.fixture
def base() -> BaseShape:
    return BASE


@pytest.fixture
def write_adapter(tmp_path: Path) -> WriteAdapter:
    """Write an adapter under ``tmp_path``; see :func:`~support.peft_adapters.write_peft_adapter`."""

    def write(name: str = "safety", **content: Any) -> Path:
        return write_peft_adapter(tmp_path / name, **content)

    return write
