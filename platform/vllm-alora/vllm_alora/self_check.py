"""One toy request through keys, events and masks, when the plugin is loaded.

Signatures say that a function is still there, not that it still means the same. What the plugin relies on is compared
here with what this vLLM does, on the CPU and without weights, so that a changed vLLM stops at the start and not with
wrong answers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from vllm_alora.activation import ACTIVATION_KEY
from vllm_alora.patches.runner_v2 import STATES_ATTRIBUTE, watch
from vllm_alora.patches.seam import UnsupportedVllmError, require_state, vllm_version

BLOCK, BLOCKS, BASE_BLOCKS = 4, 4, 2
ACTIVATION = BLOCK * BASE_BLOCKS + 1
NAME = "vllm-alora self-check"


@functools.cache
def check() -> None:
    """Hold this vLLM to what the plugin relies on; once per process.

    Raises:
        UnsupportedVllmError: it does something else; says what.
    """
    with _none_hash():
        _check_keys()
        _check_events()
    _check_mask_of_runner_v1()
    _check_mask_of_runner_v2()


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise UnsupportedVllmError(f"vllm-alora does not know this vLLM ({vllm_version()}): {what}")


@contextmanager
def _none_hash() -> Iterator[None]:
    """Give the first block a parent where the engine has not yet done so."""
    from vllm.v1.core import kv_cache_utils

    is_set = hasattr(kv_cache_utils, "NONE_HASH")
    if not is_set:
        kv_cache_utils.NONE_HASH = kv_cache_utils.BlockHash(b"self-check")
    try:
        yield
    finally:
        if not is_set:
            del kv_cache_utils.NONE_HASH


def _request(*, adapter: bool, activation: int | None = None, salt: str = "tenant") -> Any:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.utils.hashing import sha256_cbor
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher
    from vllm.v1.request import Request

    return Request(
        request_id=NAME,
        prompt_token_ids=list(range(BLOCK * BLOCKS)),
        sampling_params=SamplingParams(
            max_tokens=1, extra_args=None if activation is None else {ACTIVATION_KEY: activation}
        ),
        pooling_params=None,
        lora_request=LoRARequest(NAME, 2**31 - 1, "/not/a/path") if adapter else None,
        cache_salt=salt,
        block_hasher=get_request_block_hasher(BLOCK, sha256_cbor),
    )


def _check_keys() -> None:
    alora = _request(adapter=True, activation=ACTIVATION).block_hashes
    base, lora = _request(adapter=False).block_hashes, _request(adapter=True).block_hashes
    others = _request(adapter=True, activation=ACTIVATION, salt="another").block_hashes
    _expect(alora[:BASE_BLOCKS] == base[:BASE_BLOCKS], "blocks before the activation point are not the base model's")
    _expect(not set(alora[BASE_BLOCKS:]) & {*base, *lora}, "blocks from the activation point on are not the adapter's")
    _expect(not set(alora) & set(others), "tenants with different cache salts share blocks")
    _expect(not set(lora) & set(base), "a plain LoRA shares blocks with the base model")


def _check_events() -> None:
    from vllm.v1.core.block_pool import BlockPool

    pool = BlockPool(2 * BLOCKS, True, BLOCK, enable_kv_cache_events=True)
    request = _request(adapter=True, activation=ACTIVATION)
    pool.cache_full_blocks(request, pool.get_new_blocks(BLOCKS), 0, BLOCKS, BLOCK, 0)
    found = [(event.lora_name, len(event.block_hashes)) for event in pool.take_events()]
    expected = [(None, BASE_BLOCKS), (NAME, BLOCKS - BASE_BLOCKS)]
    _expect(found == expected, f"KV events name adapters on {found} of one request's blocks; expected {expected}")


def _check_mask_of_runner_v1() -> None:
    import numpy as np
    from vllm.v1.worker.gpu_input_batch import InputBatch

    require_state(InputBatch, "_req_ids", "req_id_to_index", "num_computed_tokens_cpu", "request_lora_mapping")
    batch = InputBatch.__new__(InputBatch)
    batch.__dict__.update(
        _req_ids=[NAME, "lora"],
        req_id_to_index={NAME: 0, "lora": 1},
        num_computed_tokens_cpu=np.array([BLOCK, 0], np.int32),
        request_lora_mapping=np.array([1, 2], np.int64),
        lora_id_to_lora_request={},
        _alora_pending={NAME: ACTIVATION},
    )
    scheduled = np.array([2 * BLOCK, 1], np.int32)
    _, tokens, _ = batch.make_lora_inputs(scheduled, np.array([1, 1], np.int32))
    _expect_mask("Model Runner V1", tokens)


def _check_mask_of_runner_v2() -> None:
    import numpy as np
    from vllm.v1.worker.gpu.lora_utils import LoraState
    from vllm.v1.worker.gpu.states import RequestState

    require_state(RequestState, STATES_ATTRIBUTE)
    state = LoraState.__new__(LoraState)
    state.__dict__.update(lora_ids=np.array([1, 2], np.int32), lora_requests={})
    watch(state, SimpleNamespace(**{STATES_ATTRIBUTE: np.array([BLOCK, 0], np.int32)}), {NAME: ACTIVATION})
    scheduled = np.array([2 * BLOCK, 1], np.int32)
    _, tokens, _ = state.make_lora_inputs([NAME, "lora"], np.arange(2), scheduled)
    _expect_mask("Model Runner V2", tokens)


def _expect_mask(runner: str, tokens: Any) -> None:
    masked = ACTIVATION - BLOCK
    expected = [0] * masked + [1] * (2 * BLOCK - masked) + [2]
    _expect(list(map(int, tokens)) == expected, f"{runner} gives tokens the adapters {tokens}; expected {expected}")
