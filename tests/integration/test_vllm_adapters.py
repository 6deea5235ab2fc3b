"""A vLLM engine whose adapters come, change and go while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from support.model import smollm2
from support.peft_reference import answers as peft_answers

from aloraserve.adapters import AdapterRegistry, AdapterVersion, FolderRegistry
from aloraserve.adapters.stored import check_stored
from aloraserve.blocks import AdapterEffect
from aloraserve.blocks.keys import version_salt
from aloraserve.directory.mirror import Mirror
from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.errors import InvalidAdapterError
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve.settings import load_settings
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.adapters import EngineAdapters
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.engine.opening import open_vllm
from aloraserve_services.models.untrained import write_untrained_adapters
from aloraserve_services.plan import FleetPlan, make_plan

pytestmark = [pytest.mark.engine, pytest.mark.untimed, pytest.mark.timeout(600)]

PROMPT = [1000 + number for number in range(80)]
NAME = "safety-lora"


@dataclass
class Started:
    """An engine, and what a replica keeps beside it."""

    plan: FleetPlan
    parts: EngineParts
    registry: FolderRegistry
    adapters: EngineAdapters
    mirror: Mirror

    async def answer(self, call: str, version: AdapterVersion | None, tokens: int) -> tuple[list[float], int]:
        """Return the log-probabilities of a greedy answer to the prompt, and how many of the prompt's were cached."""
        replies = [reply async for reply in self.parts.engine.generate(self.call(call, version, tokens))]
        return _logprobs(replies), _chunk(replies[0]).cached_tokens

    async def held_answer(self, call: str, version: AdapterVersion, tokens: int) -> list[float]:
        """Return the log-probabilities of an answer, as a replica has it: its adapter is held."""
        assert await self.adapters.hold(version.ref) is None
        logprobs, _ = await self.answer(call, version, tokens)
        self.adapters.release(version.ref)
        return logprobs

    def call(self, call: str, version: AdapterVersion | None, tokens: int) -> EngineCall:
        sampling = SamplingSettings(max_tokens=tokens, temperature=0, ignore_eos=True, logprobs=0)
        return EngineCall(call, PROMPT, sampling, adapter=version and version.ref)

    async def held_blocks(self, version: AdapterVersion | None) -> int:
        """Return how many of the prompt's blocks the mirror has, once it has taken in what is under way."""
        effect = version and AdapterEffect(version.name, version.digest, 0)
        keys = self.plan.keyspace.keys(PROMPT, adapter=effect)
        async with asyncio.timeout(60):
            async for batch in self.parts.events.batches():
                for event in batch.events:
                    self.mirror.apply(event)
                if self.mirror.overlap(keys) == len(keys):
                    break
        return self.mirror.overlap(keys)


def _chunk(reply: object) -> EngineChunk:
    assert isinstance(reply, EngineChunk)
    return reply


def _logprobs(replies: Sequence[object]) -> list[float]:
    return [token.chosen.logprob for reply in replies for token in _chunk(reply).logprobs]


def same(expected: Sequence[float]) -> object:
    """Return what equals the log-probabilities of the same weights, and of no others that are tried here."""
    return pytest.approx(expected, abs=1e-4)


def check_steps(steps: Sequence[StepStats], *, cached: int, adapted: bool = False) -> None:
    """Assert that these are what one answer to the prompt took: its prefill, then a token each step."""
    prefill, *answers = steps
    computed = len(PROMPT) - cached
    assert prefill.content == (computed, squares(cached, len(PROMPT)), computed * adapted, 0, 0, 0)
    check_answers(answers, adapted=adapted)


def check_answers(answers: Sequence[StepStats], *, adapted: bool = False) -> None:
    """Assert that each of these steps computed one more token of an answer to the prompt."""
    expected = [(0, 0, 0, 1, len(PROMPT) + number, adapted) for number in range(1, len(answers) + 1)]
    assert [step.content for step in answers] == expected
    # The last step's statistics may come a moment after the answer.
    assert len(answers) >= 10
    assert all(step.seconds > 0 for step in answers)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Keep what an engine sets in its process's environment from the tests after these."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2(tmp_path_factory.mktemp("model"), "float32")


@pytest.fixture
def written(tmp_path: Path, model_path: Path) -> list[Path]:
    """Two contents of one adapter."""
    roots = [tmp_path / f"seed-{seed}" for seed in (0, 1)]
    for seed, root in enumerate(roots):
        write_untrained_adapters(root, model_path, seed, ["safety"])
    return [root / NAME for root in roots]


@asynccontextmanager
async def started(
    adapters_dir: Path, state_dir: Path, model_path: Path, **engine_args: object
) -> AsyncIterator[Started]:
    settings = load_settings(
        engine_args=engine_args,
        model=str(model_path),
        dtype="float32",
        adapters_dir=adapters_dir,
        state_dir=state_dir,
        max_model_len=512,
        max_num_seqs=2,
        max_loras=2,
        max_loaded_adapters=3,
    )
    plan = make_plan(settings)
    parts = open_vllm(plan)
    try:
        registry: AdapterRegistry = plan.open_registry()
        assert isinstance(registry, FolderRegistry)
        adapters = EngineAdapters(parts.engine, registry, check=check_stored)
        await adapters.load()
        yield Started(plan, parts, registry, adapters, Mirror(plan.keyspace, version_salt))
    finally:
        parts.engine.shutdown()
        parts.events.close()


async def test_versions_come_and_go_and_never_mix(tmp_path: Path, model_path: Path, written: list[Path]) -> None:
    """One engine from an empty folder on, as it takes most of the time to start."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with started(folder, tmp_path / "state", model_path) as one:
        steps: list[StepStats] = []
        one.parts.engine.observe_steps(steps.append)
        base, _ = await one.answer("base", None, 12)
        check_steps(steps, cached=0)

        shutil.copytree(written[0], folder / NAME)
        for _ in range(2):
            await one.registry.read()
        first = one.registry.resolve(NAME)
        assert await one.adapters.hold(first.ref) is None
        assert await one.parts.engine.levels() == {first.key: "slot"}
        steps.clear()
        of_first, _ = await one.answer("first", first, 60)
        # Its prefill's step has the adapter loaded into its slot, and is not reported.
        check_answers(steps, adapted=True)
        assert of_first[:12] != same(base)
        steps.clear()
        assert await one.answer("first again", first, 60) == (same(of_first), 64)
        check_steps(steps, cached=64, adapted=True)
        assert await one.held_blocks(first) == 2

        # A call runs while the folder gets other content.
        running = one.parts.engine.generate(one.call("running", first, 60))
        replies = [await anext(running)]
        shutil.rmtree(folder / NAME)
        shutil.copytree(written[1], folder / NAME)
        for _ in range(2):
            await one.registry.read()
        second = one.registry.resolve(NAME)
        assert second.engine_id != first.engine_id
        assert await one.adapters.hold(second.ref) is None
        of_second, cached = await one.answer("second", second, 12)
        assert cached == 0, "nothing of the first version's blocks"
        assert of_second != same(of_first[:12])
        replies += [reply async for reply in running]
        assert _logprobs(replies) == same(of_first), "it ended with the weights that it began with"
        assert await one.held_blocks(second) == 2

        # Both in one batch.
        both = await asyncio.gather(one.answer("a", first, 12), one.answer("b", second, 12))
        assert [logprobs for logprobs, _ in both] == [same(of_first[:12]), same(of_second)]

        # vLLM may load a version again from its path, whatever the folder holds by then.
        one.adapters.release(first.ref)
        for _ in range(2):
            await one.adapters.unload_unused()
        assert first.engine_name not in one.adapters._loaded
        shutil.rmtree(folder / NAME)
        assert await one.adapters.hold(first.ref) is None
        from_snapshot, _ = await one.answer("from the snapshot", first, 12)
        assert from_snapshot == same(of_first[:12])

        # What cannot be loaded is refused, and the engine goes on.
        with pytest.raises(InvalidAdapterError, match="the engine cannot load it") as refused:
            await one.parts.engine.add_adapter(replace(second, digest="0" * 64, path=tmp_path / "nowhere"))
        assert "nowhere" in str(refused.value.__cause__), "what the log tells the operator"
        await one.parts.engine.check_health()
        assert await one.answer("base again", None, 12) == (same(base), 64)
        one.adapters.release(first.ref)
        one.adapters.release(second.ref)
        await check_more_than_fit(one, folder, written)
        await one.parts.engine.check_health()
        assert await order_of(one, {"last": 7, "first": -5, "middle": 3}) == ["first", "middle", "last"]


@pytest.mark.slow
async def test_an_engine_over_three_workers_answers_as_transformers_and_peft_do(
    tmp_path: Path, model_path: Path, written: list[Path]
) -> None:
    """The model's nine heads are spread over three processes; adapters are loaded in each, and events come from one."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    shutil.copytree(written[0], folder / NAME)
    calls = [("base", PROMPT), (NAME, PROMPT)]
    expected = peft_answers(model_path, folder, calls, base="base", max_tokens=8)
    async with started(folder, tmp_path / "state", model_path, tensor_parallel_size=3) as one:
        version = one.registry.resolve(NAME)
        assert await one.adapters.hold(version.ref) is None
        assert await one.parts.engine.levels() == {version.key: "slot"}
        of_base, _ = await one.answer("base", None, 8)
        of_adapter, _ = await one.answer("adapter", version, 8)
        assert [of_base, of_adapter] == [same(answer["logprobs"]) for answer in expected]
        assert await one.answer("again", version, 8) == (same(of_adapter), 64)
        assert await one.held_blocks(version) == 2
        workers = psutil.Process().children(recursive=True)
        assert len([process for process in workers if "VLLM::Worker" in " ".join(process.cmdline())]) == 3
        one.parts.engine.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive


async def check_more_than_fit(one: Started, folder: Path, written: Sequence[Path]) -> None:
    """More adapters take turns than have slots or room in memory, and one of them is damaged where it is stored."""
    for name in ("a", "b", "c", "d", "e"):
        shutil.copytree(written[ord(name) % 2], folder / name)
        # Each another adapter: what it adds is scaled.
        config = json.loads((folder / name / "adapter_config.json").read_text())
        config["lora_alpha"] += 8 * (ord(name) - ord("a"))
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
    for _ in range(2):
        await one.registry.read()
    versions = [one.registry.resolve(name) for name in ("a", "b", "c", "d", "e")]
    alone = [await one.held_answer(f"{version.name} alone", version, 6) for version in versions]
    assert len({round(of_one[-1], 3) for of_one in alone}) == len(versions), "five adapters, five answers"

    async def in_turn(number: int) -> None:
        which = number * 3 % len(versions)
        assert await one.held_answer(f"turn {number}", versions[which], 6) == same(alone[which])
        levels = await one.parts.engine.levels()
        assert len(levels) <= 3
        assert list(levels.values()).count("slot") <= 2

    await asyncio.gather(*(in_turn(number) for number in range(15)))

    # What was damaged fails its own calls, and nobody else's; the engine never sees it.
    bad = next(version for version in versions if version not in one.adapters.versions)
    weights = bad.path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    assert await one.adapters.hold(bad.ref) == EngineRefusal(
        f"adapter {bad.name!r} cannot be loaded: its stored files are damaged: they are not those that were checked",
        "model",
        is_adapter_fault=True,
    )
    for version, of_one in zip(versions, alone, strict=True):
        if version is not bad:
            assert await one.held_answer(f"{version.name} after", version, 6) == same(of_one)


async def order_of(one: Started, priorities: dict[str, int]) -> list[str]:
    """Return in which order calls that came at once were answered, one at a time beside a longer one."""
    ended: list[str] = []

    async def ask(name: str, priority: int) -> None:
        async for _ in one.parts.engine.generate(one.call(name, None, 4), priority):
            pass
        ended.append(name)

    async with contextlib.aclosing(one.parts.engine.generate(one.call("longer", None, 300))) as longer:
        await anext(longer)
        await asyncio.gather(*(ask(name, priority) for name, priority in priorities.items()))
    return ended
