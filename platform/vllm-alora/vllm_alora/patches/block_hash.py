"""Key the blocks before the activation point as the base model's (``vllm/v1/core/kv_cache_utils.py``).

Of those only the adapter's key goes. The tenant's cache salt, multimodal and embedding keys stay: dropping the whole
tuple would let tenants share blocks. The block that contains the activation point also gets where in it that is, and
each of the adapter's blocks which weights it was computed with.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

from vllm_alora.activation import activation_of
from vllm_alora.patches.seam import UnsupportedVllmError, is_patched, mark, require, vllm_version
from vllm_alora.reloads import generation_at
from vllm_alora.shared_prefix import moved_salt, public_tokens_of

NAME = "generate_block_hash_extra_keys"
STRADDLE = "alora"
"""Tag of the key of a block that the activation point lies in: how many of its tokens are the base model's. In KV
events it is a bare integer after the adapter's name."""
WEIGHTS = "alora_weights"
"""Tag of the key that names an adapter's weights. In KV events it is bytes, as vLLM's own digests are."""


def apply() -> None:
    """Replace the function in its module and in every module that imported it by name."""
    from vllm.v1.core import kv_cache_utils

    original = require(kv_cache_utils, NAME, "request", "start_token_idx", "end_token_idx", "start_mm_idx")
    if is_patched(original):
        return
    patched = mark(_wrap(original))
    # Plugins load after block_pool is imported: a module that keeps the original publishes adapter keys for blocks that
    # are hashed as base.
    _rebind(original, patched)
    bind_event_keys()


def bind_event_keys() -> None:
    """Have the modules that make events publish keys as their vLLM does; again after one more was imported.

    Since 0.31 vLLM takes the tags off itself. Before, keys go out as they are hashed, and consumers expect bare names.
    """
    from vllm.v1.core import kv_cache_utils

    if not hasattr(kv_cache_utils, "to_event_extra_keys"):
        hashed = getattr(kv_cache_utils, NAME)
        _rebind(hashed, mark(_untagging(hashed)), but=kv_cache_utils)


def _rebind(old: Any, new: Any, *, but: Any = None) -> None:
    """Replace a function in every loaded module that has it under its name."""
    for module in list(sys.modules.values()):
        if module is not but and getattr(module, "__dict__", {}).get(NAME) is old:
            setattr(module, NAME, new)


def _untagging(hashed: Any) -> Any:
    @functools.wraps(hashed)
    def generate_block_hash_extra_keys(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...] | None, int]:
        keys, mm_idx = hashed(*args, **kwargs)
        return (None if keys is None else tuple(_untagged(key) for key in keys)), mm_idx

    return generate_block_hash_extra_keys


def _untagged(key: Any) -> Any:
    return key[1] if isinstance(key, tuple) and key[0] in ("lora", STRADDLE, WEIGHTS) else key


def _wrap(original: Any) -> Any:
    @functools.wraps(original)
    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, start_mm_idx: int
    ) -> tuple[tuple[Any, ...] | None, int]:
        keys, mm_idx = original(request, start_token_idx, end_token_idx, start_mm_idx)
        if request.cache_salt and (public := public_tokens_of(request)):
            keys = moved_salt(keys, _salt_key(request.cache_salt), public, start_token_idx, end_token_idx)
        if keys is None or request.lora_request is None:
            return keys, mm_idx
        others = _without_adapter(keys, request.lora_request)
        activation = activation_of(request.sampling_params)
        if activation is not None and activation >= end_token_idx:
            return others or None, mm_idx
        inside = 0 if activation is None else max(0, activation - start_token_idx)
        return (*_adapter_keys(request, end_token_idx, inside), *others), mm_idx

    return generate_block_hash_extra_keys


def _salt_key(salt: str) -> Any:
    """Return vLLM's key for a salt: tagged since 0.31."""
    from vllm.v1.core import kv_cache_utils

    return ("cache_salt", salt) if hasattr(kv_cache_utils, "to_event_extra_keys") else salt


def _without_adapter(keys: tuple[Any, ...], lora_request: Any) -> tuple[Any, ...]:
    """Return vLLM's keys of a block without the adapter's, whichever of them that is.

    Raises:
        UnsupportedVllmError: none is the adapter's: taking any other one off would let tenants share blocks.
    """
    # Before 0.31 keys are untagged, and the adapter's is the first.
    first, *others = keys
    if first == lora_request.lora_name:
        return tuple(others)
    others = [key for key in keys if not (isinstance(key, tuple) and key[0] == "lora")]
    if len(others) != len(keys) - 1:
        raise UnsupportedVllmError(
            f"vllm-alora does not know this vLLM ({vllm_version()}): of the keys of a LoRA request's block "
            f"{len(keys) - len(others)} are the adapter's"
        )
    return tuple(others)


def _adapter_keys(request: Any, end: int, inside: int) -> Iterator[Any]:
    """Yield the keys of a block that an adapter changes.

    Args:
        request: a request with an adapter.
        end: the block's end, exclusive.
        inside: how many of its tokens are the base model's.
    """
    adapter = request.lora_request
    weights = generation_at(request, end)
    # vLLM's own key since 0.31. Before, it is the bare name: another adapter of that name under another path would meet
    # its blocks, and so would a base request whose cache salt happens to be the name. Where the weights are known the
    # path says nothing more, and other machines have other paths.
    yield ("lora", adapter.lora_name, "" if weights else adapter.lora_path)
    if inside:
        # A later token may complete another, last occurrence of the invocation: the same tokens then have another
        # activation point in this block, and other content.
        yield (STRADDLE, inside)
    if weights:
        yield (WEIGHTS, weights.encode())
