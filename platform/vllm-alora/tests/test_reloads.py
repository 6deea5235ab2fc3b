"""Generations of adapters: what was loaded again never meets what was computed before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vllm_alora.patches import reload
from vllm_alora.reloads import PINNED, RELOADS, Reloads


def adapter(name: str = "a", path: str = "/a", number: int = 1) -> Any:
    return SimpleNamespace(lora_name=name, lora_path=path, lora_int_id=number)


def test_a_first_load_keeps_vllms_own_keys() -> None:
    """Generation 0 adds nothing to a key: engines that share blocks still agree."""
    reloads = Reloads()
    assert [reloads.of(adapter()), reloads.of(adapter()), reloads.of(adapter("b", "/b", 2))] == [0, 0, 0]


def test_a_reload_starts_a_generation_of_its_own() -> None:
    reloads = Reloads()
    reloads.of(adapter())
    assert reloads.note_reload(adapter())
    first = reloads.of(adapter())
    assert reloads.note_reload(adapter())
    assert 0 < first < reloads.of(adapter())


def test_a_reload_of_what_nobody_used_changes_nothing() -> None:
    reloads = Reloads()
    assert not reloads.note_reload(adapter())
    assert reloads.of(adapter()) == 0


def test_another_id_for_the_same_name_and_path_is_another_load() -> None:
    """Unloaded and loaded again: vLLM counts ids up."""
    reloads = Reloads()
    assert reloads.of(adapter(number=1)) == 0
    second = reloads.of(adapter(number=2))
    assert second > 0
    assert (reloads.of(adapter(number=1)), reloads.of(adapter(number=2))) == (0, second)


def test_a_removed_id_is_loaded_again_when_it_comes_back() -> None:
    reloads = Reloads()
    reloads.of(adapter())
    reloads.of(adapter("b", "/b", 2))
    reloads.note_removal(1)
    assert reloads.of(adapter()) > 0
    assert reloads.of(adapter("b", "/b", 2)) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60), st.integers(1, 4))
def test_a_bounded_memory_never_gives_a_generation_twice(steps: list[tuple[int, bool]], most: int) -> None:
    """However many adapters come and go: after a reload no earlier generation of that adapter returns."""
    reloads = Reloads(max_known=most)
    used: dict[int, list[int]] = {}
    for number, is_reload in steps:
        one = adapter(f"n{number}", f"/n{number}", number)
        if is_reload:
            stale = set(used.get(number, ()))
            reloads.note_reload(one)
            assert reloads.of(one) not in stale
        used.setdefault(number, []).append(reloads.of(one))
        assert len(reloads._known) <= most


class Request:
    """What of vLLM's ``Request`` matters: its keys are those of the generation that it is pinned to."""

    def __init__(self, lora: Any, computed: int = 0) -> None:
        self.lora_request, self.num_computed_tokens = lora, computed
        self.block_hashes: list[int] = []
        self.update_block_hashes()

    def update_block_hashes(self) -> None:
        from vllm_alora.reloads import generation_of

        if self.lora_request is not None:
            self.block_hashes.append(generation_of(self))


def test_waiting_requests_are_keyed_again_and_running_ones_keep_their_keys() -> None:
    """One that waits will be computed with the new weights; one that runs is looked for by nobody."""
    lora, other = adapter("waiting", "/w", 90), adapter("other", "/o", 91)
    waiting, running, stranger, base = Request(lora), Request(lora, computed=5), Request(other), Request(None)
    kept = waiting.block_hashes
    assert RELOADS.note_reload(lora)
    reload._key_again([waiting, running, stranger, base], 90)
    assert waiting.block_hashes is kept, "others hold this list"
    assert waiting.block_hashes == [RELOADS.of(lora)] != [0]
    assert running.block_hashes == [0]
    assert getattr(stranger, PINNED) == 0
    reload._key_again([waiting], 90)
    assert len(waiting.block_hashes) == 1, "nothing to do the second time"
