"""Exactness in bf16: both model runners, with and without CUDA graphs, on a GPU; V1 on the CPU build.

vLLM's GPU LoRA kernels take 16 bits, so answers are compared by log-probabilities. How far those of the base model and
of plain LoRA adapters lie from PEFT's sets the tolerance: what this plugin leaves alone. A mask that is one token off
lies far outside. The engine runs in the tests' process, one engine a process: choose it with ``-k``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scores import Call, Steps, answer_all, answer_each, distance
from tiny import ADAPTERS, Engine, Reference, started_engine, words, write_adapter, write_adapters, write_model

pytestmark = [
    pytest.mark.engine,
    # The engine runs in this process, and what vLLM and torch warn of differs from version to version.
    pytest.mark.filterwarnings("default"),
]

BLOCK = 32
ALORAS = tuple(name for name, (_, invocation) in ADAPTERS.items() if invocation)
NOISE_LIMIT = 0.05
"""Nats that bf16 may cost the base model and plain LoRA adapters, in the mean over a call."""
TOLERANCE = 3.0
"""Times as far as the furthest of those calls may an aLoRA's answer lie."""

GRAPHS: dict[str, Any] = {
    "enforce_eager": False,
    "kernel_config": {"enable_jit_warmup": False},
    "compilation_config": {
        "mode": 0,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32],
    },
}
"""Whole graphs for decoding, without torch.compile."""
COMPILED: dict[str, Any] = {"enforce_eager": False, "compilation_config": {"cudagraph_capture_sizes": [1, 2, 4, 8, 32]}}
"""torch.compile and vLLM's default graphs: pieces for prefills of up to 32 tokens, whole ones for decoding."""
OFFLOAD: dict[str, Any] = {
    "kv_connector": "OffloadingConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {"cpu_bytes_to_use": 1 << 30, "block_size": BLOCK},
}
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("0", {}),
    "v1_eager": ("0", {}),
    "v2_eager": ("1", {}),
    "v1_graphs": ("0", GRAPHS),
    "v2_graphs": ("1", GRAPHS),
    "v1_compiled": ("0", COMPILED),
    "v2_compiled": ("1", COMPILED),
    "stock": ("1", {}),
    "offload": ("1", {"kv_transfer_config": OFFLOAD}),
    "sleep": ("1", {"enable_sleep_mode": True}),
}
"""Name -> VLLM_USE_V2_MODEL_RUNNER, and what differs from the tests' engine."""


def engines(*names: str) -> list[Any]:
    """Return parameters for :func:`bench`; all but the CPU build's are left out without ``-m gpu``."""
    return [pytest.param(name, id=name, marks=() if name == "cpu" else pytest.mark.gpu) for name in names]


@dataclass
class Bench:
    """An engine, PEFT, and how far apart the two lie where this plugin changes nothing."""

    engine: Engine
    reference: Reference
    model_path: Path
    noise: dict[str, float] = field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        """Return the distance that an answer may have, in nats."""
        return TOLERANCE * max(self.noise.values())

    def distances(self, calls: list[Call], answers: list[Steps]) -> list[float]:
        """Return how far each answer lies from PEFT's."""
        return [distance(self.reference, call, answer) for call, answer in zip(calls, answers, strict=True)]

    def check(self, calls: list[Call], answers: list[Steps]) -> None:
        """Fail unless every answer is PEFT's."""
        far = [
            f"{call[1]} over {len(call[0])} tokens, {answer.cached_tokens} of them cached: {found:.3f} nats"
            for call, answer, found in zip(calls, answers, self.distances(calls, answers), strict=True)
            if found > self.tolerance
        ]
        assert not far, f"further from PEFT than {self.tolerance:.3f}: {far}"


@pytest.fixture(scope="module", params=engines(*list(ENGINES)[:7]))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The engine of that name, and the noise of base and plain LoRA calls on it."""
    from vllm import envs

    runner, changes = ENGINES[request.param]
    _skip_unless_it_can_run(request.param)
    root = tmp_path_factory.mktemp("bf16")
    model = write_model(root / "model", "llama", "bfloat16", initializer_range=0.05)
    adapters = write_adapters(root / "adapters", model, spread=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if request.param == "stock":
            patch.setenv("VLLM_PLUGINS", "")
        if request.param != "cpu":
            changes = {**changes, **gpu_settings()}
        with started_engine(model, adapters, dtype="bfloat16", kv_cache_memory_bytes=1 << 29, **changes) as engine:
            found = Bench(engine, Reference(model, adapters), model)
            found.noise = _noise(found)
            yield found
        # The engine in this process has frozen what vLLM reads of the environment.
        envs.disable_envs_cache()


def gpu_settings() -> dict[str, Any]:
    """Return what every engine on a GPU gets: little memory, and the attention that ``gpu/check.py`` was asked for."""
    attention = os.environ.get("ALORA_CHECK_ATTENTION")
    return {"gpu_memory_utilization": 0.1, **({"attention_backend": attention} if attention else {})}


_started: list[str] = []


def _skip_unless_it_can_run(name: str) -> None:
    import torch
    from vllm.platforms import current_platform

    if name == "cpu" and not current_platform.is_cpu():
        pytest.skip("the CPU build's engine")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU and vLLM's CUDA build")
    if _started and _started != [name]:
        pytest.skip(f"this process runs the engine {_started[0]}; start another with -k {name}")
    _started[:] = [name]


def _noise(bench: Bench) -> dict[str, float]:
    calls: list[Call] = [
        (words(length, 40 + length), name)
        for length in (7, 45, 150, 300)
        for name in (None, *(name for name in ADAPTERS if name not in ALORAS))
    ]
    found = bench.distances(calls, answer_all(bench.engine, calls))
    return {f"{name or 'base'} over {len(prompt)}": each for (prompt, name), each in zip(calls, found, strict=True)}


def call(name: str | None, length: int, seed: int, after: int = 1) -> Call:
    """Return a prompt of ``length`` tokens, the adapter's invocation, and some tokens more."""
    invocation = (ADAPTERS[name][1] or ()) if name else ()
    return [*words(length, seed), *invocation, *words(after, seed + 1)], name


def test_bf16_costs_the_base_model_and_plain_loras_little(
    bench: Bench, record_property: Callable[[str, Any], None]
) -> None:
    """A tolerance made of wide noise would prove nothing."""
    record_property("noise", {name: round(found, 4) for name, found in bench.noise.items()})
    assert max(bench.noise.values()) < NOISE_LIMIT


@pytest.mark.parametrize("bench", engines("stock"), indirect=True)
def test_stock_vllm_is_as_far_from_peft(bench: Bench, record_property: Callable[[str, Any], None]) -> None:
    """The same calls without this plugin, for comparison."""
    record_property("noise", round(max(bench.noise.values()), 4))
    assert max(bench.noise.values()) < NOISE_LIMIT


def test_one_batch_of_every_kind_is_exact(bench: Bench, record_property: Callable[[str, Any], None]) -> None:
    """Every slot full; prompts of one chunk and of several, chunks that end around activation points."""
    calls = [call(name, length, 100 + length) for length in (5, 31, 96, 125, 300) for name in (None, *ADAPTERS)]
    answers = answer_all(bench.engine, calls)
    record_property("distances", [round(found, 4) for found in bench.distances(calls, answers)])
    bench.check(calls, answers)


@pytest.mark.parametrize("tokens", [-1, 1], ids=["early", "late"])
def test_a_mask_that_is_one_token_off_lies_far_outside(
    bench: Bench, tokens: int, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, Any], None]
) -> None:
    """The comparison can see what it is there for."""
    from vllm_alora.patches import runner_v1, runner_v2

    calls = [call(name, length, 200 + length) for length in (4, 8, 12, 20) for name in ALORAS]
    bench.check(calls, answer_all(bench.engine, calls))
    bench.engine.llm.reset_prefix_cache()
    for module in (runner_v1, runner_v2):
        monkeypatch.setattr(module, "masked_spans", shifted_spans(tokens))
    wrong = bench.distances(calls, answer_all(bench.engine, calls))
    bench.engine.llm.reset_prefix_cache()
    record_property("distances", [round(found, 4) for found in wrong])
    assert sum(found > bench.tolerance for found in wrong) > len(wrong) / 2
    assert max(wrong) > 3 * bench.tolerance


def shifted_spans(tokens: int) -> Callable[..., list[tuple[int, int]]]:
    """Return ``masked_spans`` with every activation point so many tokens later."""
    from vllm_alora.patches.runner_v1 import masked_spans

    def shifted(pending: dict[str, int], *rest: Any) -> list[tuple[int, int]]:
        return masked_spans({request: activation + tokens for request, activation in pending.items()}, *rest)

    return shifted


@pytest.mark.parametrize("length", [2 * BLOCK - 2, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_warm_blocks_around_the_activation_point_are_exact(bench: Bench, length: int) -> None:
    """Base first: an aLoRA takes the whole blocks before its point, another one and the base model do too."""
    prompt = words(length, 300 + length)
    base: Call = ([*prompt, *words(70, 301)], None)
    calls = [base, *(([*prompt, *(ADAPTERS[name][1] or ()), 5], name) for name in ALORAS)]
    cold = answer_each(bench.engine, calls)
    assert [answer.cached_tokens for answer in cold] == [0, *[length // BLOCK * BLOCK] * len(ALORAS)]
    warm = answer_each(bench.engine, calls)
    bench.check(calls, cold)
    bench.check(calls, warm)
    assert all(answer.cached_tokens >= length // BLOCK * BLOCK for answer in warm)


def test_an_aloras_blocks_serve_the_base_model(bench: Bench) -> None:
    """The blocks before the point are base blocks, whoever computed them, in prefill chunks that are all masked."""
    first = call("safety", 270, 400)
    then: Call = ([*first[0][:270], *words(30, 401)], None)
    answers = answer_each(bench.engine, [first, then])
    assert answers[1].cached_tokens == 256
    bench.check([first, then], answers)


def test_a_prompt_without_the_invocation_is_the_base_models_beside_active_adapters(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``VLLM_ALORA_ABSENT=base``, alone right after an adapter's own steps, and in a batch with them."""
    monkeypatch.setenv("VLLM_ALORA_ABSENT", "base")
    absent: list[Call] = [(words(length, 500 + length), "certainty") for length in (3, 40, 130)]
    expected: list[Call] = [(prompt, None) for prompt, _ in absent]
    active = call("certainty", 20, 501)
    for one, wanted in zip(absent, expected, strict=True):
        bench.check([active, wanted], answer_each(bench.engine, [active, one], 6))
    bench.engine.llm.reset_prefix_cache()
    bench.check([*expected, active], answer_all(bench.engine, [*absent, active], 6))


def test_a_reload_in_place_takes_the_new_weights_and_keeps_base_blocks(bench: Bench, tmp_path: Path) -> None:
    """The same name and path, other weights."""
    from vllm.lora.request import LoRARequest

    path, prompt = tmp_path / "swap", [*words(70, 600), 921, 922, 5]
    one: Call = (prompt, "swap")
    for seed, load_inplace, cached in ((60, False, 0), (61, True, 64)):
        shutil.rmtree(path, ignore_errors=True)
        write_adapter(path, bench.model_path, rank=8, invocation=(921, 922), seed=seed, spread=0.1)
        request = LoRARequest("swap", 60, str(path), load_inplace=load_inplace)
        bench.engine.llm.llm_engine.add_lora(request)
        (found,) = answer_all(bench.engine, [one], lora_request=request)
        assert found.cached_tokens == cached
        assert distance(Reference(bench.model_path, tmp_path, ("swap",)), one, found) < bench.tolerance


@pytest.mark.parametrize("bench", engines("offload"), indirect=True)
def test_blocks_that_come_back_from_cpu_memory_are_exact(bench: Bench) -> None:
    """Native KV offload: the GPU's cache is reset, the blocks come from the CPU's."""
    calls = [call(name, 130, 700) for name in (None, *ADAPTERS)]
    for _ in range(2):
        bench.check(calls, answer_each(bench.engine, calls))
        assert bench.engine.llm.reset_prefix_cache()


@pytest.mark.parametrize("bench", engines("sleep"), indirect=True)
def test_an_engine_that_slept_answers_as_before(bench: Bench) -> None:
    """Sleep drops the cache; weights come back."""
    calls = [call(name, 130, 800) for name in (None, *ADAPTERS)]
    bench.check(calls, answer_each(bench.engine, calls))
    bench.engine.llm.sleep(level=1)
    bench.engine.llm.wake_up()
    bench.check(calls, answer_each(bench.engine, calls))
