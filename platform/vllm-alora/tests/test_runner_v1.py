"""Model Runner V1's own ``InputBatch``: which adapter each token of a step has."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from vllm_alora.activation import ACTIVATION_KEY, NEVER
from vllm_alora.patches import runner_v1

ROWS, BLOCK = 4, 16


@pytest.fixture
def batch() -> Any:
    """A batch without requests."""
    from vllm.v1.worker.gpu_input_batch import InputBatch

    runner_v1.apply()
    # vLLM took this parameter away in 0.32.
    has_kernel_blocks = "kernel_block_sizes" in inspect.signature(InputBatch.__init__).parameters
    return InputBatch(
        max_num_reqs=ROWS,
        max_model_len=128,
        max_num_batched_tokens=64,
        device=torch.device("cpu"),
        vocab_size=64,
        block_sizes=[BLOCK],
        max_num_blocks_per_req=[128 // BLOCK],
        **({"kernel_block_sizes": [BLOCK]} if has_kernel_blocks else {}),
    )


def add(batch: Any, name: str, adapter: int, activation: int | None, computed: int = 0) -> None:
    """Add what the runner keeps of a request."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    batch.add_request(
        CachedRequestState(
            req_id=name,
            prompt_token_ids=[5] * 32,
            mm_features=[],
            sampling_params=SamplingParams(
                max_tokens=8, extra_args=None if activation is None else {ACTIVATION_KEY: activation}
            ),
            generator=None,
            block_ids=([1, 2],),
            num_computed_tokens=computed,
            output_token_ids=[],
            lora_request=LoRARequest(f"adapter-{adapter}", adapter, "/nowhere") if adapter else None,
        )
    )


def adapters(batch: Any, *scheduled: int) -> list[int]:
    """Return the adapter of each token of a step, and count the tokens as computed."""
    counts = np.array(scheduled, np.int32)
    _, tokens, _ = batch.make_lora_inputs(counts, np.ones(len(counts), np.int32))
    batch.num_computed_tokens_cpu[: len(counts)] += counts
    return [int(adapter) for adapter in tokens]


@pytest.mark.parametrize(("activation", "masked"), [(0, [0, 0, 0]), (5, [5, 0, 0]), (8, [8, 0, 0]), (11, [8, 3, 0])])
def test_a_chunk_is_masked_up_to_the_activation_point(batch: Any, activation: int, masked: list[int]) -> None:
    """Chunks of 8 tokens end after, at and before the activation point."""
    add(batch, "a", 11, activation)
    for count in masked:
        assert adapters(batch, 8) == [0] * count + [11] * (8 - count)


def test_each_request_of_a_batch_follows_its_own_point(batch: Any) -> None:
    """Base, plain LoRA, aLoRA with cached tokens, and one that never activates."""
    for name, adapter, activation, computed in (("b", 0, None, 0), ("l", 12, None, 0), ("a", 11, 20, 16)):
        add(batch, name, adapter, activation, computed)
    add(batch, "n", 12, NEVER)
    assert adapters(batch, 2, 3, 6, 2) == [0] * 2 + [12] * 3 + [0] * 4 + [11] * 2 + [0] * 2


def test_finished_requests_leave_nothing(batch: Any) -> None:
    """A preempted one comes back as it was."""
    add(batch, "a", 11, 20)
    batch.remove_request("a")
    assert not batch._alora_pending
    add(batch, "a", 11, 20, computed=16)
    assert adapters(batch, 6) == [0] * 4 + [11] * 2
