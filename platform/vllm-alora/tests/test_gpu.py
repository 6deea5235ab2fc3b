"""What the CPU build cannot run, for whoever has a GPU: ``pytest -m gpu``. None of it has been run by the project's CI.

fp32 without TF32; Model Runner V2 and CUDA graphs are vLLM's defaults on CUDA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import ADAPTERS, Engine, Reference, assert_exact, started_engine, words

pytestmark = [pytest.mark.engine, pytest.mark.gpu]


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in fp32 proper, in the engine's processes too."""
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


def calls() -> list[Any]:
    """Return one call of every kind over one prefix, with every slot full."""
    prompt = words(130, 700)
    return [([*prompt, *(ADAPTERS[name][1] or () if name else ()), 5], name) for name in (None, *ADAPTERS)]


def check(engine: Engine, reference: Reference) -> None:
    """Cold, then warm: exact, and every whole block before the activation point reused."""
    for _ in range(2):
        answers = engine.answers(calls())
        assert_exact(reference, calls(), answers)
    assert all(answer.cached_tokens == 128 for answer in answers)


@pytest.mark.parametrize("runner", ["0", "1"], ids=["Model Runner V1", "Model Runner V2"])
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "CUDA graphs"])
def test_each_model_runner_is_exact(
    runner: str,
    eager: bool,
    model_path: Path,
    adapters_path: Path,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
    with started_engine(model_path, adapters_path, enforce_eager=eager, gpu_memory_utilization=0.3) as engine:
        check(engine, reference)


def test_blocks_that_come_back_from_cpu_memory_are_exact(
    model_path: Path, adapters_path: Path, reference: Reference
) -> None:
    """Native KV offload: the GPU's cache is reset, the blocks come from the CPU's."""
    from vllm.config import KVTransferConfig

    offload = KVTransferConfig(
        kv_connector="OffloadingConnector",
        kv_role="kv_both",
        kv_connector_extra_config={"cpu_bytes_to_use": 1 << 30, "block_size": 32},
    )
    with started_engine(model_path, adapters_path, kv_transfer_config=offload, gpu_memory_utilization=0.3) as engine:
        check(engine, reference)
        assert engine.llm.reset_prefix_cache()
        answers = engine.answers(calls())
    assert_exact(reference, calls(), answers)


def test_an_engine_that_slept_answers_as_before(model_path: Path, adapters_path: Path, reference: Reference) -> None:
    """Sleep mode drops the cache; weights come back."""
    with started_engine(model_path, adapters_path, enable_sleep_mode=True, gpu_memory_utilization=0.3) as engine:
        check(engine, reference)
        engine.llm.sleep(level=1)
        engine.llm.wake_up()
        assert_exact(reference, calls(), engine.answers(calls()))
