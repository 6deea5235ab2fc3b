"""A fleet of three adapters, and a tokenizer of one token per character."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.character_tokenizer import ADAPTERS

from aloraserve.adapters import StaticRegistry
from aloraserve.blocks import KeySpace
from aloraserve.settings import Settings
from aloraserve_services.plan import FleetPlan


@pytest.fixture
def adapters() -> StaticRegistry:
    return StaticRegistry(ADAPTERS, base_names=["base"])


@pytest.fixture
def plan(adapters: StaticRegistry) -> FleetPlan:
    class PlanOfThree(FleetPlan):
        """Has adapters without a folder."""

        def open_registry(self) -> StaticRegistry:
            return adapters

    return PlanOfThree(
        settings=Settings(max_model_len=64),
        served_name="base",
        model_path=Path("/none"),
        dtype="float32",
        keyspace=KeySpace("model", "tokenizer", 8),
    )
