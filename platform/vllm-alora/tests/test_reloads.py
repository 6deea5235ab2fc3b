"""Generations of adapters: blocks of other weights are never met, in no engine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from cores import BLOCK, Core, config_of, write_files
from hypothesis import given
from hypothesis import strategies as st

import vllm_alora
from vllm_alora.reloads import VLLMS_OWN, Reloads, generation_of


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin."""
    vllm_alora.register()


def adapter(name: str = "a", path: str = "/a", number: int = 1) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(name, number, path)


def in_place(lora: Any) -> Any:
    from msgspec.structs import replace

    return replace(lora, load_inplace=True)


def test_engines_that_loaded_the_same_weights_agree_whatever_they_loaded_before(tmp_path: Path) -> None:
    """A data-parallel rank that never reloads meets the blocks of one that did, from files in another place."""
    here = adapter("a", str(write_files(tmp_path / "here", "v1")))
    there = adapter("a", str(write_files(tmp_path / "there", "v2")))
    reloading, fresh = Reloads(), Reloads()
    old = reloading.of(here)
    write_files(tmp_path / "here", "v2")
    assert reloading.note_reload(in_place(here))
    assert reloading.of(here) == fresh.of(there) != old
    write_files(tmp_path / "here", "v1")
    reloading.note_reload(in_place(here))
    assert reloading.of(here) == old


def test_a_reload_of_the_same_weights_changes_nothing(tmp_path: Path) -> None:
    reloads, lora = Reloads(), adapter("a", str(write_files(tmp_path, "v1")))
    before = reloads.of(lora)
    assert not reloads.note_reload(in_place(lora))
    assert reloads.of(lora) == before


def test_an_adapter_from_memory_keeps_vllms_own_keys_until_it_is_loaded_again() -> None:
    """Nobody can say what its weights are, so each later load is a generation that no process has twice."""
    first, second = Reloads(), Reloads()
    assert first.of(adapter()) == VLLMS_OWN
    assert first.note_reload(in_place(adapter()))
    assert second.note_reload(in_place(adapter())), "it is not known what this engine has served"
    assert len({VLLMS_OWN, first.of(adapter()), second.of(adapter())}) == 3


def test_another_id_for_the_same_name_and_path_is_another_load() -> None:
    """Unloaded and loaded again: vLLM counts ids up."""
    reloads = Reloads()
    assert reloads.of(adapter(number=1)) == VLLMS_OWN
    second = reloads.of(adapter(number=2))
    assert second != VLLMS_OWN
    assert (reloads.of(adapter(number=1)), reloads.of(adapter(number=2))) == (VLLMS_OWN, second)


def test_a_removed_id_is_read_again_when_it_comes_back(tmp_path: Path) -> None:
    reloads, lora = Reloads(), adapter("a", str(write_files(tmp_path, "v1")))
    before = reloads.of(lora)
    write_files(tmp_path, "v2")
    assert reloads.of(lora) == before
    reloads.note_removal(1)
    assert reloads.of(lora) != before


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60), st.integers(1, 4))
def test_a_bounded_memory_never_gives_a_generation_twice(steps: list[tuple[int, bool]], most: int) -> None:
    """However many adapters come and go: after a reload no earlier generation of that adapter returns."""
    reloads = Reloads(max_known=most)
    used: dict[int, list[str]] = {}
    for number, is_reload in steps:
        one = adapter(f"n{number}", f"/n{number}", number + 1)
        if is_reload:
            stale = set(used.get(number, ()))
            reloads.note_reload(in_place(one))
            assert reloads.of(one) not in stale
        used.setdefault(number, []).append(reloads.of(one))
        assert len(reloads._known) <= most


def test_adapters_may_be_loaded_and_hashed_at_once() -> None:
    """Requests are hashed on the input thread, adapters are loaded and removed on the core's."""
    reloads, failed = Reloads(digest=lambda lora: None), []

    def hash_requests() -> None:
        try:
            for number in range(2000):
                reloads.of(adapter(f"n{number}", "/n", number + 1))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=hash_requests)
    thread.start()
    while thread.is_alive():
        reloads.note_removal(5)
    thread.join()
    assert not failed


@pytest.fixture
def core(tmp_path: Path) -> Core:
    """An engine core that nobody has used."""
    return Core(config_of(tmp_path))


@pytest.fixture
def plain(tmp_path: Path) -> Any:
    """A plain LoRA adapter on disk."""
    return adapter("plain", str(write_files(tmp_path / "plain", "v1")))


def reload_with(core: Core, lora: Any, weights: str, path: Path | None = None) -> Any:
    from msgspec.structs import replace

    folder = path or Path(lora.lora_path)
    write_files(folder, weights)
    reloaded = replace(lora, lora_path=str(folder), load_inplace=True)
    core.add_lora(reloaded)
    return reloaded


PROMPT = list(range(100, 100 + 2 * BLOCK + 1))


@pytest.mark.parametrize("tokens", [BLOCK - 1, 2 * BLOCK + 1], ids=["shorter than a block", "two blocks"])
def test_a_request_that_runs_across_a_reload_shares_no_block_that_it_completes_afterwards(
    core: Core, plain: Any, tokens: int
) -> None:
    """Neither with requests on the new weights nor, in another engine or after one more reload, with the old ones'."""
    core.add_lora(plain)
    running = core.add("running", PROMPT[:tokens], plain, max_tokens=3 * BLOCK)
    core.step()
    complete = running.block_hashes[: running.num_computed_tokens // BLOCK]
    reload_with(core, plain, "v2")
    for _ in range(2 * BLOCK):
        core.step()
    answered = list(running.all_token_ids)
    on_new = core.add("new", answered, plain)
    reload_with(core, plain, "v1")
    on_old = core.add("old", answered, plain)
    assert running.block_hashes[: len(complete)] == complete == on_old.block_hashes[: len(complete)]
    mixed = set(running.block_hashes[len(complete) :])
    assert mixed
    assert not mixed & {*on_new.block_hashes, *on_old.block_hashes}


def test_waiting_requests_are_keyed_by_the_weights_that_they_will_run_with(
    core: Core, plain: Any, tmp_path: Path
) -> None:
    """Also when the new weights come from another path, as vLLM recommends."""
    core.add_lora(plain)
    waiting = core.add("waiting", PROMPT, plain)
    held, before = waiting.block_hashes, list(waiting.block_hashes)
    reloaded = reload_with(core, plain, "v2", tmp_path / "moved")
    fresh = core.add("fresh", PROMPT, reloaded)
    assert waiting.block_hashes is held, "connectors hold this list"
    assert before != waiting.block_hashes == fresh.block_hashes
    core.step()
    assert core.worker.weights(plain.lora_int_id) == "v2"


def test_a_request_from_before_a_reload_does_not_bring_the_old_weights_back(
    core: Core, plain: Any, tmp_path: Path
) -> None:
    """It names the old path, and the worker has evicted the adapter in the meantime."""
    core.add_lora(plain)
    core.add("waiting", PROMPT, plain)
    reload_with(core, plain, "v2", tmp_path / "moved")
    core.worker.manager._adapter_manager.weights.clear()
    core.step()
    assert core.worker.weights(plain.lora_int_id) == "v2"


def test_one_that_arrives_before_a_reload_and_is_scheduled_after_it_has_the_new_keys(core: Core, plain: Any) -> None:
    """Arrivals are hashed on another thread than the one that loads."""
    core.add_lora(plain)
    arrived = core.arrive("early", PROMPT, plain)
    reload_with(core, plain, "v2")
    core.admit(arrived)
    assert arrived.block_hashes == core.add("late", PROMPT, plain).block_hashes


def test_a_request_has_its_generation_from_the_start(core: Core, plain: Any) -> None:
    """A prompt shorter than a block hashes nothing, and is of these weights all the same."""
    core.add_lora(plain)
    request = core.arrive("short", PROMPT[:1], plain)
    reload_with(core, plain, "v2")
    assert generation_of(request) != core.reloads.of(plain)


def test_another_invocation_cannot_come_in_under_requests(core: Core, tmp_path: Path) -> None:
    """Their activation points are the old invocation's."""
    from vllm.exceptions import VLLMValidationError

    alora = adapter("alora", str(write_files(tmp_path / "alora", "v1", alora_invocation_tokens=[7, 8])))
    core.add_lora(alora)
    core.add("waiting", [1, 2, 7, 8], alora)
    write_files(tmp_path / "alora", "v2", alora_invocation_tokens=[9])
    with pytest.raises(VLLMValidationError, match="another invocation while requests for it are unfinished"):
        core.add_lora(in_place(alora))
    while core.scheduler.requests:
        core.step()
    core.add_lora(in_place(alora))
    assert core.adapters.invocation(alora) == (9,)


def test_kv_events_say_which_weights_a_block_is_of(core: Core, plain: Any) -> None:
    """Before and after a reload everything else is the same; vLLM's consumers skip bytes."""
    from vllm.v1.core import kv_cache_utils

    def published(name: str) -> Any:
        request = core.add(name, PROMPT, plain)
        with core.process():
            keys, _ = kv_cache_utils.generate_block_hash_extra_keys(request, 0, BLOCK, 0)
        return (
            keys
            if not hasattr(kv_cache_utils, "to_event_extra_keys")
            else kv_cache_utils.to_event_extra_keys([keys])[0]
        )

    core.add_lora(plain)
    before = published("before")
    reload_with(core, plain, "v2")
    after = published("after")
    assert before[0] == after[0]
    assert before[-1] != after[-1]
