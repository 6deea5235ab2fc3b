"""True KV events from the connectors that make their own (``vllm/distributed/kv_transfer/kv_connector``).

Offloading connectors name the request's adapter on every block, also on those before the activation point; the Mooncake
store names it on none. A connector's modules are patched once it has been made: importing them here would cost every
process, and only those that have one need it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.patches.block_hash import bind_event_keys
from vllm_alora.patches.kv_events import leading_base_blocks, name_as_base, split
from vllm_alora.patches.reload import HASHED_AGAIN, LOOKAHEAD
from vllm_alora.patches.seam import replace, require_state

_ADAPTER = "_alora_adapter"
"""Attribute of a Mooncake ``ReqMeta``: adapter id, adapter name, number of leading block hashes that are base."""
_CURRENT = "_alora_request"


def apply() -> None:
    """Wrap ``KVConnectorFactory.create_connector``, and what is loaded already."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    replace(KVConnectorFactory, "create_connector", _wrap_create, "config", "role")
    patch_loaded()


def patch_loaded() -> None:
    """Wrap the producers whose modules this process has imported.

    Raises:
        UnsupportedVllmError: one of them makes its events otherwise than this version of the plugin knows.
    """
    bind_event_keys()
    for name, patch in _PRODUCERS.items():
        module = sys.modules.get(name)
        if module is not None:
            patch(module)


def _wrap_create(original: Any) -> Any:
    @functools.wraps(original)
    def create_connector(*args: Any, **kwargs: Any) -> Any:
        connector = original(*args, **kwargs)
        patch_loaded()
        return connector

    return create_connector


class _NameOfSome(str):
    """An adapter's name on a chunk whose first blocks are the base model's; it travels with what the event says."""

    base_blocks: int

    def __new__(cls, name: str, base_blocks: int) -> _NameOfSome:
        self = super().__new__(cls, name)
        self.base_blocks = base_blocks
        return self


def _base_tokens(request: Any) -> int | None:
    """Return how many of a request's first tokens lie in blocks keyed as the base model's; None without an aLoRA."""
    activation = activation_of(request.sampling_params)
    return None if activation is None else max(0, activation - getattr(request, LOOKAHEAD, 0))


def _patch_offloading(module: Any) -> None:
    tracker = module.OffloadingEventsTracker
    replace(tracker, "_build_event_metadata", _wrap_chunk, "req", "group_config", "chunk_idx")
    replace(tracker, "_record_partial_tail", _wrap_tail, "req", "group_config", "boundary_tokens", "offload_key")
    replace(tracker, "_take_stored_event", _wrap_take, "event")
    require_state(tracker, "_pending_event_metadata", "self_describing_enabled")


def _wrap_chunk(original: Any) -> Any:
    @functools.wraps(original)
    def build_event_metadata(self: Any, req: Any, group_config: Any, chunk_idx: int) -> Any:
        chunk = original(self, req, group_config, chunk_idx)
        _name_chunk(chunk, req, chunk_idx * group_config.tokens_per_chunk)
        return chunk

    return build_event_metadata


def _wrap_tail(original: Any) -> Any:
    @functools.wraps(original)
    def record_partial_tail(self: Any, req: Any, group_config: Any, boundary_tokens: int, offload_key: Any) -> None:
        original(self, req, group_config, boundary_tokens, offload_key)
        if self.self_describing_enabled:
            tail = self._pending_event_metadata[offload_key]
            _name_chunk(tail, req, boundary_tokens - len(tail.token_ids))

    return record_partial_tail


def _name_chunk(chunk: Any, request: Any, start: int) -> None:
    """Name the adapter on what is kept of an offloaded chunk only from the activation point on."""
    base_tokens = _base_tokens(request)
    if base_tokens is None or chunk.lora_name is None:
        return
    blocks = len(chunk.block_hashes)
    base_blocks = leading_base_blocks(base_tokens, start, blocks, chunk.block_size)
    if base_blocks == blocks:
        name_as_base(chunk)
    elif base_blocks:
        chunk.lora_name = _NameOfSome(chunk.lora_name, base_blocks)


def _wrap_take(original: Any) -> Any:
    @functools.wraps(original)
    def take_stored_event(self: Any, event: Any) -> Iterator[Any]:
        for stored in original(self, event):
            if not isinstance(stored.lora_name, _NameOfSome):
                yield stored
                continue
            blocks = stored.lora_name.base_blocks
            stored.lora_name = str(stored.lora_name)
            yield from split(stored, blocks, blocks * stored.block_size, stored.block_hashes[blocks - 1])

    return take_stored_event


def _patch_offloading_keys(module: Any) -> None:
    replace(module.RequestOffloadState, "update_offload_keys", _wrap_offload_keys)


def _wrap_offload_keys(original: Any) -> Any:
    @functools.wraps(original)
    def update_offload_keys(self: Any) -> None:
        # It copies hashes that it has not copied yet; after a reload all of them may be others.
        if self.req.__dict__.pop(HASHED_AGAIN, False):
            for group in self.group_states:
                group.offload_keys.clear()
        original(self)

    return update_offload_keys


def _patch_simple_offload(module: Any) -> None:
    if hasattr(module, "BlockStored"):  # vLLM 0.29 publishes no events here.
        owner = module.SimpleCPUOffloadScheduler
        require_state(owner, "hash_block_size")
        replace(owner, "_select_eager_blocks_to_store", _wrap_select, "state", "block_ids_by_group")


def _wrap_select(original: Any) -> Any:
    @functools.wraps(original)
    def select_eager_blocks_to_store(self: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        selected = original(self, state, *args, **kwargs)
        blocks = selected[-1]
        base_tokens = _base_tokens(state.request)
        if base_tokens is None or not blocks:
            return selected
        from vllm.v1.core.kv_cache_utils import get_block_hash

        base = set(state.request.block_hashes[: base_tokens // self.hash_block_size])
        for by_hash in blocks:
            for block_hash, block in by_hash.items():
                if get_block_hash(block_hash) in base:
                    name_as_base(block)
        return selected

    return select_eager_blocks_to_store


def _patch_mooncake_scheduler(module: Any) -> None:
    require_state(module.MooncakeStoreScheduler, "_unfinished_requests", "_hash_block_size")
    replace(module.MooncakeStoreScheduler, "build_connector_meta", _wrap_connector_meta, "scheduler_output")


def _wrap_connector_meta(original: Any) -> Any:
    @functools.wraps(original)
    def build_connector_meta(self: Any, scheduler_output: Any) -> Any:
        meta = original(self, scheduler_output)
        for stored in meta.requests:
            request, *_ = self._unfinished_requests.get(stored.req_id, (None,))
            base_tokens = request and _base_tokens(request)
            if base_tokens is not None and request.lora_request is not None:
                adapter = request.lora_request
                base_hashes = base_tokens // self._hash_block_size
                # The store's worker sees no request, and its event no more than hashes.
                setattr(stored, _ADAPTER, (adapter.adapter_id, adapter.name, base_hashes))
        return meta

    return build_connector_meta


def _patch_mooncake_worker(module: Any) -> None:
    thread = module.KVCacheStoreSendingThread
    replace(thread, "_handle_request", _wrap_handle, "req_meta")
    replace(thread, "update_kv_event", _wrap_update, "events")


def _wrap_handle(original: Any) -> Any:
    @functools.wraps(original)
    def handle_request(self: Any, req_meta: Any) -> None:
        setattr(self, _CURRENT, req_meta)
        try:
            original(self, req_meta)
        finally:
            setattr(self, _CURRENT, None)

    return handle_request


def _wrap_update(original: Any) -> Any:
    @functools.wraps(original)
    def update_kv_event(self: Any, events: list[Any]) -> None:
        request: Any = getattr(self, _CURRENT, None)
        adapter = getattr(request, _ADAPTER, None)
        if adapter is not None:
            _name_stored(events, request.block_hashes, *adapter)
        original(self, events)

    return update_kv_event


def _name_stored(events: list[Any], chain: list[Any], lora_id: int, lora_name: str, base_hashes: int) -> None:
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

    base = {maybe_convert_block_hash(block_hash) for block_hash in chain[:base_hashes]}
    for event in events:
        if event.block_hashes[-1] not in base:
            event.lora_id, event.lora_name = lora_id, lora_name


_CONNECTORS = "vllm.distributed.kv_transfer.kv_connector.v1"
_PRODUCERS: dict[str, Callable[[Any], None]] = {
    f"{_CONNECTORS}.offloading.events": _patch_offloading,
    f"{_CONNECTORS}.offloading.scheduler": _patch_offloading_keys,
    "vllm.v1.simple_kv_offload.manager": _patch_simple_offload,
    f"{_CONNECTORS}.mooncake.store.scheduler": _patch_mooncake_scheduler,
    f"{_CONNECTORS}.mooncake.store.worker": _patch_mooncake_worker,
}
