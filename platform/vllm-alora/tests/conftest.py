"""The engine that most tests share, its adapters and PEFT as the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Engine, Reference, started_engine, write_adapters, write_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer Llama in fp32 with a word-level tokenizer."""
    return write_model(tmp_path_factory.mktemp("tiny-llama"), "llama")


@pytest.fixture(scope="session")
def adapters_path(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """The folder of :data:`ADAPTERS`, as PEFT writes them."""
    return write_adapters(tmp_path_factory.mktemp("adapters"), model_path)


@pytest.fixture(scope="session")
def reference(model_path: Path, adapters_path: Path) -> Reference:
    """PEFT's answers for the tiny model."""
    return Reference(model_path, adapters_path)


@pytest.fixture(scope="session")
def events_endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the engine publishes its KV events."""
    return f"ipc://{tmp_path_factory.mktemp('events')}/kv"


@pytest.fixture(scope="session")
def engine(model_path: Path, adapters_path: Path, events_endpoint: str) -> Iterator[Engine]:
    """A running engine: fp32, chunks of 128 tokens, as many adapter slots as adapters."""
    from vllm.config import KVEventsConfig

    events = KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=events_endpoint)
    with started_engine(model_path, adapters_path, kv_events_config=events) as running:
        yield running
