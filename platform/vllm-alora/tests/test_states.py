"""Engine states in which a block or a mask could go wrong: eviction, preemption, speculation, tensor parallelism."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import ADAPTERS, ENVIRONMENT, Engine, Reference, assert_exact, started_engine, words

from vllm_alora.patches.seam import vllm_version

pytestmark = pytest.mark.engine

Call = tuple[list[int], str | None]
NAMES = (None, *ADAPTERS)
MEMORY_NODES = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))


@pytest.fixture(scope="module")
def small(model_path: Path, adapters_path: Path) -> Iterator[Engine]:
    """An engine whose cache holds 17 blocks: a few prompts fill it, and running requests are preempted."""
    with started_engine(
        model_path, adapters_path, num_gpu_blocks_override=18, max_model_len=384, max_num_batched_tokens=64, seed=0
    ) as running:
        yield running


def invoked(prompt: Sequence[int], adapter: str | None, tail: Sequence[int] = ()) -> Call:
    """Return a call over a prompt, with the adapter's invocation and a tail if it is an aLoRA."""
    invocation = ADAPTERS[adapter][1] if adapter else None
    return ([*prompt, *invocation, *tail] if invocation else [*prompt, *tail], adapter)


@st.composite
def interleavings(draw: st.DrawFn) -> list[list[Call]]:
    """Batches of calls of every kind over three growing conversations, so that prefixes are shared and evicted."""
    conversations = [words(32 * 3, seed) for seed in range(3)]
    batches = []
    for _ in range(draw(st.integers(2, 5))):
        batch: list[Call] = []
        for _ in range(draw(st.integers(1, 4))):
            prompt = conversations[draw(st.integers(0, 2))][: draw(st.integers(1, 96))]
            tail = words(draw(st.integers(0, 20)), draw(st.integers(0, 3)))
            batch.append(invoked(prompt, draw(st.sampled_from(NAMES)), tail))
        batches.append(batch)
    return batches


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(interleavings())
def test_no_interleaving_on_a_small_cache_changes_an_answer(
    small: Engine, reference: Reference, batches: list[list[Call]]
) -> None:
    """Each answer is the one that PEFT gives the same prompt alone, whatever was cached, evicted or in the batch."""
    for batch in batches:
        assert_exact(reference, batch, small.answers(batch, max_tokens=3))


def test_preempted_requests_go_on_exactly(small: Engine, reference: Reference) -> None:
    """More than fits is running: some lose their blocks before, some after their activation point, and start again."""
    before = preemptions(small)
    calls = [
        invoked(words(90, 400), "certainty", words(20, 401)),
        invoked(words(120, 402), "safety"),
        invoked(words(100, 403), "style"),
        invoked(words(70, 404), None),
        invoked(words(60, 405), "certainty", words(40, 406)),
    ]
    answers = small.answers(calls, max_tokens=60)
    assert preemptions(small) > before, "nothing was preempted, so nothing was tested"
    assert_exact(reference, calls, answers)


def preemptions(engine: Engine) -> int:
    """Return how often the engine has preempted a request."""
    found = [metric.value for metric in engine.llm.get_metrics() if metric.name == "vllm:num_preemptions"]
    return int(sum(found))


def test_speculated_tokens_are_verified_with_the_adapter(
    model_path: Path, adapters_path: Path, reference: Reference
) -> None:
    """N-gram speculation over a prompt that repeats itself: drafts are accepted, and every token is the adapter's."""
    from vllm.platforms import current_platform

    if vllm_version().startswith("0.30.") and current_platform.is_cpu():
        pytest.skip("vLLM 0.30's CPU build judges drafts with a Triton kernel that it cannot run, whatever the adapter")
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    with started_engine(model_path, adapters_path, speculative_config=speculation) as engine:
        calls = []
        for name in ("certainty", "safety", "style", None):
            prompt, adapter = invoked(words(40, 410), name)
            answer = reference.answer(prompt, adapter, 24).tokens
            # The prompt already holds what the adapter will say of its end, so that drafts come true.
            calls.append(invoked([*words(20, 411), *prompt[-4:], *answer, *words(40, 410)], name))
        answers = engine.answers(calls, max_tokens=24)
        drafted = [one.value for one in engine.llm.get_metrics() if one.name == "vllm:spec_decode_num_draft_tokens"]
    assert sum(drafted) > 0
    assert_exact(reference, calls, answers)


@pytest.mark.slow
@pytest.mark.parametrize("fully_sharded", [False, True], ids=["half sharded", "fully sharded"])
def test_two_workers_of_a_tensor_parallel_engine_mask_alike(
    model_path: Path, adapters_path: Path, reference: Reference, fully_sharded: bool
) -> None:
    """Tensor parallel 2 over gloo: each worker holds half of the heads and loads the plugin in its own process.

    Fully sharded, each also computes half of an adapter's rank, by other operations of the CPU wrapper.
    """
    with started_engine(
        model_path,
        adapters_path,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        fully_sharded_loras=fully_sharded,
    ) as engine:
        prompt = words(100, 420)
        calls: list[Any] = [invoked(prompt, name, words(5, 421)) for name in NAMES]
        answers = [engine.answers(calls), engine.answers(calls)]
    for batch in answers:
        assert_exact(reference, calls, batch)
    by_name = dict(zip(NAMES, answers[1], strict=True))
    assert by_name["certainty"].cached_tokens == 96


@pytest.mark.slow
@pytest.mark.skipif(
    vllm_version().startswith("0.33") and len(MEMORY_NODES) < 2,
    reason="vLLM 0.33's CPU worker of the second rank needs a second memory node",
)
async def test_each_engine_of_a_data_parallel_pair_shares_within_itself(
    model_path: Path, adapters_path: Path, reference: Reference
) -> None:
    """Data parallel 2: two engine cores in processes of their own; a rank's base blocks serve its aLoRA calls."""
    from vllm.lora.request import LoRARequest

    with started_pair(model_path) as pair:
        prompt = words(100, 430)
        for rank in (0, 1):
            base, _ = await answer_of(pair, prompt, None, rank)
            assert base == reference.answer(prompt, None, 6).tokens
        fresh = words(90, 431)
        other, _ = invoked(fresh, "safety")
        await answer_of(pair, fresh, None, 0)
        for rank, cached in ((0, 64), (1, 0)):
            lora = LoRARequest("safety", 2, str(adapters_path / "safety"))
            found, cached_tokens = await answer_of(pair, other, lora, rank)
            assert found == reference.answer(other, "safety", 6).tokens
            assert cached_tokens == cached


@contextmanager
def started_pair(model_path: Path) -> Iterator[Any]:
    """Run two engine cores behind one front end."""
    os.environ.update(ENVIRONMENT)
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(model_path),
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=512,
        data_parallel_size=2,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=16,
    )
    pair = AsyncLLM.from_engine_args(arguments)
    try:
        yield pair
    finally:
        pair.shutdown()


async def answer_of(pair: Any, prompt: list[int], lora: Any, rank: int) -> tuple[list[int], int]:
    """Return the greedy answer of one rank's engine, and what was cached."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=6, min_tokens=6, temperature=0, detokenize=False)
    outputs = pair.generate(
        {"prompt_token_ids": prompt}, params, f"{rank}-{uuid.uuid4().hex}", lora_request=lora, data_parallel_rank=rank
    )
    async for output in outputs:
        last = output
    return list(last.outputs[0].token_ids), last.num_cached_tokens


def test_random_words_never_invoke() -> None:
    """The prompts of these tests have an invocation where they say so, and nowhere else."""
    chooser = random.Random(0)
    invocations = {token for _, tokens in ADAPTERS.values() for token in tokens or ()}
    assert not invocations & set(words(10_000, chooser.randrange(1000)))
