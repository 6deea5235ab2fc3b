"""KV events and what connectors publish, made by vLLM's own block pool, trackers and schedulers."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vllm_alora
from vllm_alora.activation import ACTIVATION_KEY, NEVER
from vllm_alora.patches import kv_event_producers, reload
from vllm_alora.patches.seam import UnsupportedVllmError, is_patched
from vllm_alora.reloads import RELOADS

BLOCK = 4
BLOCKS = 8
PROMPT = list(range(100, 100 + BLOCK * BLOCKS))
CONNECTORS = "vllm.distributed.kv_transfer.kv_connector.v1"
NAME = "certainty"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin twice, and patch the producers that are imported here as a connector's making would."""
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core.kv_cache_utils import init_none_hash

    for module in ("offloading.events", "mooncake.store.scheduler", "mooncake.store.worker"):
        importlib.import_module(f"{CONNECTORS}.{module}")
    importlib.import_module("vllm.v1.simple_kv_offload.manager")
    for _ in range(2):
        vllm_alora.register()
        kv_event_producers.apply()
    init_none_hash(sha256_cbor)


def request_of(activation: int | None, *, adapter: bool = True, salt: str | None = None) -> Any:
    """Return a scheduler's request over :data:`PROMPT`: aLoRA with an activation point, else LoRA or base."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher
    from vllm.v1.request import Request

    extra_args = None if activation is None else {ACTIVATION_KEY: activation}
    return Request(
        request_id="r",
        prompt_token_ids=PROMPT,
        sampling_params=SamplingParams(max_tokens=1, extra_args=extra_args),
        pooling_params=None,
        lora_request=LoRARequest(NAME, 7, "/adapters/certainty") if adapter else None,
        cache_salt=salt,
        block_hasher=get_request_block_hasher(BLOCK, sha256_cbor),
    )


def pool_of(lookahead: int = 0) -> Any:
    """Return a block pool that queues events."""
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(64, True, BLOCK, enable_kv_cache_events=True)
    pool.num_hash_lookahead_tokens = lookahead
    return pool


def store(
    pool: Any, request: Any, ends: list[int], *, size: int = BLOCK, skipped: frozenset[int] = frozenset()
) -> list[Any]:
    """Cache the request's blocks up to each of ``ends`` in turn and return the events, as the scheduler takes them."""
    blocks = pool.get_new_blocks(len(PROMPT) // size)
    blocks = [pool.null_block if index in skipped else block for index, block in enumerate(blocks)]
    for start, end in pairwise([0, *ends]):
        pool.cache_full_blocks(request, blocks, start, end, size, 0)
    return pool.take_events()


def flat(events: list[Any]) -> list[tuple[Any, ...]]:
    """Return each published block: hash, keys, adapter's name and id."""
    return [
        (block_hash, keys, event.lora_name, event.lora_id)
        for event in events
        for block_hash, keys in zip(event.block_hashes, event.extra_keys, strict=True)
    ]


def names(events: list[Any]) -> list[tuple[str | None, int]]:
    """Return the adapter's name and the number of blocks of each event."""
    return [(event.lora_name, len(event.block_hashes)) for event in events]


@settings(deadline=None)
@given(
    st.one_of(st.integers(0, len(PROMPT) + 5), st.just(NEVER)),
    st.sets(st.integers(1, BLOCKS), min_size=1),
    st.sampled_from([None, "tenant"]),
)
def test_blocks_before_the_activation_point_are_published_as_the_base_models_own(
    activation: int, ends: set[int], salt: str | None
) -> None:
    """Whatever one store call spans, blocks are those of a base request up to the point and the adapter's after it."""
    events = store(pool_of(), request_of(activation, salt=salt), sorted(ends))
    base = flat(store(pool_of(), request_of(None, adapter=False, salt=salt), sorted(ends)))
    shared = min(activation // BLOCK, max(ends))
    assert flat(events)[:shared] == base[:shared]
    for position, (block_hash, keys, name, lora_id) in enumerate(flat(events)[shared:], shared):
        assert (name, lora_id, keys[0]) == (NAME, 7, NAME)
        assert block_hash != base[position][0]
    assert all(NAME not in (keys or ()) for _, keys, *_ in flat(events)[:shared])
    assert [token for event in events for token in event.token_ids] == PROMPT[: max(ends) * BLOCK]
    assert events[0].parent_block_hash is None
    for before, after in pairwise(events):
        assert after.parent_block_hash == before.block_hashes[-1]
    assert all(len(event.token_ids) == len(event.block_hashes) * BLOCK for event in events)


@pytest.mark.parametrize("activation", [None, 0])
def test_an_adapter_that_is_on_from_the_first_token_keeps_vllms_event(activation: int | None) -> None:
    """Plain LoRA requests are untouched, and so is an invocation at index 0."""
    (event,) = store(pool_of(), request_of(activation), [BLOCKS])
    assert names([event]) == [(NAME, BLOCKS)]
    assert all(keys[0] == NAME for keys in event.extra_keys)


def test_blocks_larger_than_the_hashed_ones_are_split_at_their_own_size() -> None:
    """A hybrid model's group of 8-token blocks over 4-token hashes: the block with the point is the adapter's."""
    request = request_of(2 * BLOCK * 2 + BLOCK)
    events = store(pool_of(), request, [BLOCKS // 2], size=2 * BLOCK)
    assert names(events) == [(None, 2), (NAME, 2)]
    assert [event.token_ids for event in events] == [PROMPT[:16], PROMPT[16:]]
    assert events[1].parent_block_hash == events[0].block_hashes[-1]


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [
        ({0, 5}, [(None, 2), (NAME, 4)]),
        ({2}, [(None, 2), (NAME, 5)]),
        ({3}, [(None, 3), (NAME, 4)]),
        ({0, 1, 2}, [(NAME, 5)]),
        ({3, 4, 5, 6, 7}, [(None, 3)]),
    ],
)
def test_groups_that_skip_blocks_are_split_by_the_blocks_positions(skipped: set[int], expected: list[Any]) -> None:
    """Sliding windows leave blocks out of an event that has their tokens: counting hashes would miss the point."""
    request = request_of(3 * BLOCK + 1)
    whole = store(pool_of(), request_of(3 * BLOCK + 1), [BLOCKS])
    blocks = [row for index, row in enumerate(flat(whole)) if index not in skipped]
    events = store(pool_of(), request, [BLOCKS], skipped=frozenset(skipped))
    assert names(events) == expected
    assert flat(events) == blocks
    assert [token for event in events for token in event.token_ids] == PROMPT
    if len(events) == 2:
        assert len(events[0].token_ids) == 12
        assert events[1].parent_block_hash == flat(whole)[2][0]


def test_blocks_reused_from_the_cache_are_published_like_those_just_stored() -> None:
    """``kv_cache_report_mode=full`` tells of prefix hits too, with the same split."""
    pool, request = pool_of(), request_of(3 * BLOCK + 1)
    stored = store(pool, request, [BLOCKS])
    for count in range(1, BLOCKS + 1):
        pool.emit_cached_block_events(request, count, BLOCK, 0)
        events = pool.take_events()
        assert flat(events) == flat(stored)[:count]
        assert names(events) == [(name, n) for name, n in ((None, min(count, 3)), (NAME, count - 3)) if n > 0]


@pytest.mark.parametrize(("end", "name"), [(2, None), (3, None), (4, NAME), (5, NAME)])
def test_a_partial_block_is_the_adapters_only_past_the_activation_point(end: int, name: str | None) -> None:
    """Partial entries are published on their own, one hashed block each."""
    pool, request = pool_of(), request_of(3 * BLOCK)
    (block,) = pool.get_new_blocks(1)
    pool.cache_partial_block(request, block, end * BLOCK, 0, 16 * BLOCK)
    (event,) = pool.take_events()
    assert (event.lora_name, event.lora_id) == (name, None if name is None else 7)
    assert (NAME in (event.extra_keys[0] or ())) is (name is not None)


def test_a_partial_block_of_a_plain_lora_keeps_its_name() -> None:
    """And one that is cached already queues nothing."""
    pool, request = pool_of(), request_of(None)
    (block,) = pool.get_new_blocks(1)
    for expected in ([NAME], []):
        pool.cache_partial_block(request=request, block=block, num_tokens=BLOCK, kv_cache_group_id=0, block_size=64)
        assert [event.lora_name for event in pool.take_events()] == expected


def test_hashes_that_look_ahead_make_the_block_before_the_point_the_adapters() -> None:
    """vLLM 0.33 hashes the next token with a block for EAGLE drafters: events follow the hashes."""
    events = store(pool_of(lookahead=1), request_of(3 * BLOCK), [BLOCKS])
    assert names(events) == [(None, 2), (NAME, 6)]


def test_tokens_ahead_of_each_block_are_split_with_the_blocks() -> None:
    """Every field with an entry a block must keep one a block."""
    import msgspec

    from vllm_alora.patches.kv_events import split

    event_type = msgspec.defstruct(
        "Event",
        ["block_hashes", "parent_block_hash", "token_ids", "lora_id", "lora_name", "extra_keys", "lookahead_token_ids"],
    )
    event = event_type([1, 2, 3], None, [9] * 6, 7, NAME, [None, None, (NAME,)], [[4], [5], [6]])
    base, adapter = split(event, 2, 4, 2)
    assert base == event_type([1, 2], None, [9] * 4, None, None, [None, None], [[4], [5]])
    assert adapter == event_type([3], 2, [9] * 2, 7, NAME, [(NAME,)], [[6]])


def offloaded(request: Any, *, chunks: range, tail: int | None = None) -> list[Any]:
    """Offload chunks of two blocks (and a partial tail) of a request and return the events in their order."""
    events_module = importlib.import_module(f"{CONNECTORS}.offloading.events")
    from vllm.v1.kv_offload.base import Medium, OffloadingEvent, OffloadingKVEventsConfig, make_offload_key

    group = SimpleNamespace(
        group_idx=0,
        tokens_per_block=BLOCK,
        tokens_per_chunk=2 * BLOCK,
        hashes_per_chunk=2,
        sliding_window_size_in_chunks=None,
        kv_event_group_spec=events_module.OffloadingEventGroupSpec("full_attention", None),
    )
    tracker = events_module.OffloadingEventsTracker(OffloadingKVEventsConfig(True, True))
    keys = []
    for chunk in chunks:
        keys.append(make_offload_key(request.block_hashes[2 * chunk + 1], 0))
        record = tracker.record_store if chunk % 2 else tracker.record_lookup
        record(request, group, chunk, keys[-1])
    if tail is not None:
        keys.append(make_offload_key(request.block_hashes[tail // BLOCK - 1], 0))
        tracker.record_partial_store(request, group, tail, keys[-1])
    stored = OffloadingEvent(keys=keys, medium=Medium.CPU, removed=False)
    # A second tier tells of the same chunks again.
    return [list(tracker.take_events([stored])) for _ in range(2)][1]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (0, [(NAME, 2), (NAME, 2)]),
        (3, [(NAME, 2), (NAME, 2)]),
        (4, [(None, 1), (NAME, 1), (NAME, 2)]),
        (8, [(None, 2), (NAME, 2)]),
        (13, [(None, 2), (None, 1), (NAME, 1)]),
        (NEVER, [(None, 2), (None, 2)]),
        (None, [(NAME, 2), (NAME, 2)]),
    ],
)
def test_offloaded_chunks_are_split_at_the_activation_point(activation: int | None, expected: list[Any]) -> None:
    """A chunk holds several blocks, and both kinds of them; its events are made long after its request is gone."""
    request = request_of(activation)
    events = offloaded(request, chunks=range(2))
    assert names(events) == expected
    assert all(type(event.lora_name) in (str, type(None)) for event in events)
    assert [event.lora_id for event in events] == [None if name is None else 7 for name, _ in expected]
    assert [block for event in events for block in event.block_hashes] == [*map(external, request.block_hashes[:4])]
    assert [token for event in events for token in event.token_ids] == PROMPT[: 4 * BLOCK]
    for before, after in pairwise(events):
        assert after.parent_block_hash == before.block_hashes[-1]


@pytest.mark.parametrize(("activation", "expected"), [(8, [(NAME, 1)]), (12, [(None, 1)]), (16, [(None, 1)])])
def test_offloaded_partial_tails_follow_their_position(activation: int, expected: list[Any]) -> None:
    """The tail ends in the middle of a chunk."""
    assert names(offloaded(request_of(activation), chunks=range(0), tail=3 * BLOCK)) == expected


def test_the_offloading_tracker_stays_silent_unless_it_describes_its_events() -> None:
    """Without the option there is nothing to name an adapter on."""
    events_module = importlib.import_module(f"{CONNECTORS}.offloading.events")
    from vllm.v1.kv_offload.base import OffloadingKVEventsConfig

    tracker = events_module.OffloadingEventsTracker(OffloadingKVEventsConfig(True, False))
    group = SimpleNamespace(sliding_window_size_in_chunks=None)
    tracker.record_partial_store(request_of(8), group, 8, b"key")
    assert not tracker._pending_event_metadata


def external(block_hash: Any) -> Any:
    """Return a hash as events show it."""
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

    return maybe_convert_block_hash(block_hash)


@pytest.mark.parametrize(("activation", "base"), [(None, 0), (0, 0), (9, 2), (16, 4), (NEVER, 8)])
def test_simple_offload_keeps_blocks_before_the_point_as_the_base_models(activation: int | None, base: int) -> None:
    """Its events are made when the copy is done, from what was noted of each block before."""
    module = importlib.import_module("vllm.v1.simple_kv_offload.manager")
    if not hasattr(module, "BlockStored"):
        pytest.skip("this vLLM publishes no events of simple KV offload")
    request, pool = request_of(activation), pool_of()
    request.num_computed_tokens = len(PROMPT)
    blocks = pool.get_new_blocks(BLOCKS // 2)
    pool.cache_full_blocks(request, blocks, 0, BLOCKS // 2, 2 * BLOCK, 0)
    scheduler = object.__new__(module.SimpleCPUOffloadScheduler)
    scheduler._gpu_block_pool, scheduler.cpu_block_pool = pool, pool_of()
    scheduler.enable_kv_cache_events = True
    scheduler.hash_block_size, scheduler.group_block_sizes = BLOCK, [2 * BLOCK]
    scheduler.prefix_cacheable_group_ids = [0]
    scheduler._in_flight_store_gpu_blocks = set()
    scheduler.cpu_kv_cache_config = SimpleNamespace(kv_cache_groups=[None])
    scheduler.cpu_coordinator = SimpleNamespace(
        single_type_managers=[SimpleNamespace(has_positionally_stable_blocks=True)],
        get_num_cacheable_tokens=lambda tokens, group: tokens,
        enable_partial_hash_hits=True,
    )
    state = module.StoreRequestState(request, ([],), [0])
    *_, noted = scheduler._select_eager_blocks_to_store(state, ([block.block_id for block in blocks],))
    by_end = {meta.token_ids[-1] - PROMPT[0] + 1: meta for by_hash in noted for meta in by_hash.values()}
    assert len(by_end) == BLOCKS
    for end, meta in by_end.items():
        is_base = end <= base * BLOCK
        assert (meta.lora_name, meta.lora_id) == ((None, None) if is_base else (NAME, 7)), end
        assert is_base != bool(meta.extra_keys)


def mooncake_meta(request: Any) -> Any:
    """Return what the Mooncake store's scheduler sends its workers of a request in one step."""
    module = importlib.import_module(f"{CONNECTORS}.mooncake.store.scheduler")
    data = importlib.import_module(f"{CONNECTORS}.mooncake.store.data")
    stored = data.ReqMeta("r", len(PROMPT), ([],), list(request.block_hashes))
    scheduler = object.__new__(module.MooncakeStoreScheduler)
    scheduler._unfinished_requests = {"r": (request, ([],))}
    scheduler._hash_block_size = BLOCK
    build = kv_event_producers._wrap_connector_meta(lambda self, output: SimpleNamespace(requests=[stored]))
    (made,) = build(scheduler, None).requests
    assert is_patched(module.MooncakeStoreScheduler.build_connector_meta)
    return pickle.loads(pickle.dumps(made))


def mooncake_events(stored: Any, indices: list[int]) -> list[Any]:
    """Have a store thread publish blocks, as vLLM does: one event a block, never with an adapter."""
    from vllm.distributed.kv_events import BlockStored

    module = importlib.import_module(f"{CONNECTORS}.mooncake.store.worker")
    thread = object.__new__(module.KVCacheStoreSendingThread)
    thread.kv_events, thread.kv_event_lock = [], threading.Lock()
    made = [
        BlockStored(
            block_hashes=[external(stored.block_hashes[index])],
            parent_block_hash=None,
            token_ids=[],
            block_size=BLOCK,
            lora_id=None,
            medium="cpu",
            lora_name=None,
        )
        for index in indices
    ]
    handle = kv_event_producers._wrap_handle(lambda self, meta: self.update_kv_event(made))
    handle(thread, stored)
    assert is_patched(module.KVCacheStoreSendingThread._handle_request)
    return thread.get_kv_events()


@pytest.mark.parametrize(("activation", "base"), [(0, 0), (9, 2), (16, 4), (NEVER, 8)])
def test_the_mooncake_store_names_the_adapter_from_the_activation_point_on(activation: int, base: int) -> None:
    """vLLM publishes all of its blocks as the base model's; the worker learns of the adapter with the store job."""
    events = mooncake_events(mooncake_meta(request_of(activation)), [7, *range(7)])
    expected = [(None, None) if index < base else (NAME, 7) for index in [7, *range(7)]]
    assert [(event.lora_name, event.lora_id) for event in events] == expected


@pytest.mark.parametrize("adapter", [True, False])
def test_the_mooncake_store_keeps_vllms_events_of_other_requests(adapter: bool) -> None:
    """Plain LoRA and base requests are untouched, also after an aLoRA job of the same thread."""
    events = mooncake_events(mooncake_meta(request_of(None, adapter=adapter)), [0, 1])
    assert [(event.lora_name, event.lora_id) for event in events] == [(None, None)] * 2


def test_a_job_that_fails_does_not_lend_its_adapter_to_the_next() -> None:
    """The thread goes on after an error, with the next request's events."""
    thread = SimpleNamespace()

    def fail(self: Any, meta: Any) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        kv_event_producers._wrap_handle(fail)(thread, mooncake_meta(request_of(0)))
    published: list[Any] = []
    update = kv_event_producers._wrap_update(lambda self, events: published.extend(events))
    update(thread, [SimpleNamespace(block_hashes=[b"x"], lora_name=None)])
    assert [event.lora_name for event in published] == [None]


def test_making_a_connector_patches_what_it_brought() -> None:
    """Its modules are imported when it is made, after the plugin was loaded."""
    tracker = importlib.import_module(f"{CONNECTORS}.offloading.events").OffloadingEventsTracker
    patched = tracker._take_stored_event
    tracker._take_stored_event = patched.__wrapped__
    assert not is_patched(tracker._take_stored_event)
    assert kv_event_producers._wrap_create(lambda config, role: "made")(None, role=None) == "made"
    assert is_patched(tracker._take_stored_event)
    assert not is_patched(tracker._take_stored_event.__wrapped__)


def test_loading_the_plugin_imports_no_connector() -> None:
    """Every process loads the plugin, few have a connector; the factory is there to patch those that do."""
    check = """
import sys, vllm_alora
from vllm_alora.patches import kv_event_producers, reload
vllm_alora.register(); kv_event_producers.apply()
loaded = [name for name in kv_event_producers._PRODUCERS if name in sys.modules]
assert not loaded, loaded
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm_alora.patches.seam import is_patched
assert is_patched(KVConnectorFactory.create_connector)
assert not is_patched(KVConnectorFactory.create_connector.__wrapped__)
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=300)


@pytest.fixture
def strange_module(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A producer as another vLLM may have it: same module, other class or other parameters."""
    name = f"{CONNECTORS}.offloading.events"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(OffloadingEventsTracker=request.param))
    return name


class _Renamed:
    pass


class _OtherParameters:
    def _build_event_metadata(self, request: Any) -> None: ...


@pytest.mark.parametrize(
    ("strange_module", "reason"),
    [(_Renamed, "_build_event_metadata is gone"), (_OtherParameters, "without req, group_config, chunk_idx")],
    indirect=["strange_module"],
)
def test_a_connector_that_changed_its_seam_is_refused(strange_module: str, reason: str) -> None:
    """Its events would say what is not true."""
    with pytest.raises(UnsupportedVllmError, match=reason):
        kv_event_producers.patch_loaded()


def test_hashes_that_change_with_a_reload_are_offloaded_under_their_new_keys() -> None:
    """The offloading connector copies a request's hashes as they grow; after a reload it has to copy them again."""
    scheduler = importlib.import_module(f"{CONNECTORS}.offloading.scheduler")
    kv_event_producers.apply()
    request = request_of(None)
    group = SimpleNamespace(offload_keys=[])
    state = scheduler.RequestOffloadState.__new__(scheduler.RequestOffloadState)
    state.config = SimpleNamespace(
        kv_group_configs=[SimpleNamespace(hashes_per_chunk=2, group_idx=0, tokens_per_chunk=2 * BLOCK)]
    )
    state.req, state.group_states, state.req_context = request, [group], MagicMock()
    state.update_offload_keys()
    before = list(group.offload_keys)
    RELOADS.note_reload(request.lora_request)
    reload._key_again([request], request.lora_request.lora_int_id)
    state.update_offload_keys()
    assert len(group.offload_keys) == len(before) == BLOCKS // 2
    assert not set(group.offload_keys) & set(before)


@pytest.mark.parametrize(("lookahead", "base_blocks"), [(0, 2), (1, 1)])
def test_a_hash_that_covers_tokens_after_its_block_is_the_adapters_where_they_are(
    lookahead: int, base_blocks: int
) -> None:
    """vLLM 0.33 with EAGLE: the block before an activation point at its end is hashed, and named, as the adapter's."""
    request = request_of(2 * BLOCK)
    setattr(request, reload.LOOKAHEAD, lookahead)
    chunk = SimpleNamespace(lora_name=NAME, lora_id=7, block_hashes=[b"0", b"1", b"2"], block_size=BLOCK)
    kv_event_producers._name_chunk(chunk, request, 0)
    assert chunk.lora_name.base_blocks == base_blocks
