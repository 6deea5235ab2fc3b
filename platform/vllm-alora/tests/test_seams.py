"""The seams one by one, with vLLM's own objects: what a live CPU engine cannot show."""

from __future__ import annotations

import contextlib
import inspect
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vllm_alora
from vllm_alora.activation import ACTIVATION_KEY, NEVER, find_activation
from vllm_alora.patches import cpu_lora
from vllm_alora.patches.runner_v1 import mask
from vllm_alora.patches.seam import UnsupportedVllmError, is_patched, require

tokens = st.lists(st.integers(0, 3), max_size=40)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Load the plugin twice: the second load must change nothing."""
    vllm_alora.register()
    vllm_alora.register()


@settings(deadline=None)
@given(tokens, st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_activation_is_pefts(prompt: list[int], invocation: list[int]) -> None:
    """PEFT counts backward from the end; the same index comes out."""
    from peft import LoraConfig
    from peft.tuners.lora.variants import calculate_alora_offsets

    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=invocation)
    (offset,) = calculate_alora_offsets({"a": config}, "a", torch.tensor([prompt], dtype=torch.long))
    expected = None if offset is None else len(prompt) - offset
    assert find_activation(prompt, invocation) == expected


def test_a_second_load_leaves_one_layer_of_patches() -> None:
    """vLLM may load a plugin more than once in a process."""
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.worker.gpu_input_batch import InputBatch

    function = InputBatch.make_lora_inputs
    vllm_alora.register()
    assert InputBatch.make_lora_inputs is function
    assert is_patched(function)
    assert not is_patched(function.__wrapped__)
    assert is_patched(kv_cache_utils.generate_block_hash_extra_keys)
    assert is_patched(block_pool.generate_block_hash_extra_keys)
    assert not is_patched(inspect.unwrap(block_pool.generate_block_hash_extra_keys))


def test_a_changed_seam_is_refused_by_name() -> None:
    """Better no start than wrong answers."""
    owner = SimpleNamespace(seam=lambda prompt: prompt)
    with pytest.raises(UnsupportedVllmError, match=r"seam takes \(prompt\), without lora_request"):
        require(owner, "seam", "lora_request")
    with pytest.raises(UnsupportedVllmError, match="is gone"):
        require(owner, "other")
    with pytest.raises(UnsupportedVllmError, match=r": json\.no_such is gone"):
        require(json, "no_such")


@given(st.lists(st.integers(-1, 2), max_size=30))
def test_segments_cover_exactly_the_tokens_that_use_an_adapter(slots: list[int]) -> None:
    """Each token of a slot lies in one segment of that slot; -1 lies in none."""
    rebuilt = [-1] * len(slots)
    for start, end, slot in cpu_lora.segments_of(torch.tensor(slots, dtype=torch.long)):
        assert end > start
        for position in range(start, end):
            assert rebuilt[position] == -1
            rebuilt[position] = slot
    assert rebuilt == slots


def test_the_cpu_wrapper_adds_each_tokens_own_adapter() -> None:
    """Every slot full, masked tokens between: equal to a loop over tokens."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    generator = torch.Generator().manual_seed(0)
    slots = torch.tensor([-1, -1, 0, 0, 2, -1, 1, 1, 1, -1])
    a = tuple(torch.randn(3, 1, 4, 16, generator=generator) for _ in range(2))
    b = tuple(torch.randn(3, 1, width, 4, generator=generator) for width in (8, 6))
    x, y = torch.randn(10, 16, generator=generator), torch.randn(10, 14, generator=generator)
    expected = y.clone()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            parts = [bb[slot, 0] @ (aa[slot, 0] @ x[row]) for aa, bb in zip(a, b, strict=True)]
            expected[row] += 2.0 * torch.cat(parts)
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=64, max_batches=2, device="cpu")
    wrapper.is_prefill = True
    wrapper._update_prefill_metadata(slots)
    wrapper.add_lora_linear(y, x, a, b, 2.0, (8, 6))
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("tokens", [1, cpu_lora.FEW_TOKENS, cpu_lora.FEW_TOKENS + 1, 200])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_bf16_linear_is_that_of_fp32_rounded(tokens: int, scale: float) -> None:
    """Few tokens are computed in fp32, many in bf16 where the CPU has it; the output's own rounding bounds both."""
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(tokens, 64, generator=generator), torch.randn(tokens, 24, generator=generator)
    a, b = torch.randn(2, 1, 8, 64, generator=generator) / 8, torch.randn(2, 1, 24, 8, generator=generator) / 3
    x, y, a, b = (part.bfloat16() for part in (x, y, a, b))
    exact = y.double() + scale * (x.double() @ a[1, 0].double().t()) @ b[1, 0].double().t()
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=256, max_batches=2, device="cpu")
    wrapper.is_prefill = True
    wrapper._update_prefill_metadata(torch.ones(tokens, dtype=torch.long))
    wrapper.add_lora_linear(y, x, (a,), (b,), scale, (24,))
    torch.testing.assert_close(y.double(), exact, rtol=2e-2, atol=2e-2)


def test_a_linear_that_an_adapter_leaves_alone_costs_nothing_until_another_is_activated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zeros are not multiplied; weights that come into the slot later are seen."""
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    products: list[Any] = []
    monkeypatch.setattr(cpu_lora, "add_matmul", lambda y, x, weight, scale: products.append(weight.shape))
    a, b = torch.ones(2, 1, 4, 8), torch.zeros(2, 1, 6, 4)
    b[0] = 1
    wrapper = PunicaWrapperCPU(max_num_batched_tokens=8, max_batches=2, device="cpu")
    wrapper.is_prefill = True

    def products_of(slot: int) -> int:
        products.clear()
        wrapper._update_prefill_metadata(torch.full((3,), slot))
        wrapper.add_lora_linear(torch.zeros(3, 6), torch.ones(3, 8), (a,), (b,), 1.0, (6,))
        return len(products)

    assert (products_of(0), products_of(1), products_of(1)) == (1, 0, 0)
    manager = SimpleNamespace(activate_adapter=None)
    b[0], b[1] = 0, 1
    with contextlib.suppress(AttributeError):
        LoRAModelManager.activate_adapter(manager, 1)
    assert (products_of(0), products_of(1)) == (0, 1)


def test_bf16_lora_is_at_least_as_exact_as_bf16() -> None:
    """Where the CPU has no bf16, matmuls run in fp32 and only the result is rounded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator).bfloat16()
    weight = torch.randn(8, 64, generator=generator).bfloat16()
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(cpu_lora.matmul(x, weight).double(), exact, rtol=1e-2, atol=1e-1)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=30), st.data())
def test_a_mask_zeroes_its_spans_and_nothing_else(ids: list[int], data: st.DataObject) -> None:
    """Id 0 is vLLM's "no adapter"."""
    start = data.draw(st.integers(0, len(ids)))
    end = data.draw(st.integers(start, len(ids)))
    expected = [0 if start <= position < end else slot for position, slot in enumerate(ids)]
    assert list(mask(tuple(ids), [(start, end)])) == expected
    assert mask(tuple(ids), []) == tuple(ids)


def _request(name: str, number: int, activation: int | None) -> SimpleNamespace:
    from vllm.lora.request import LoRARequest

    extra_args = None if activation is None else {ACTIVATION_KEY: activation}
    return SimpleNamespace(
        req_id=name,
        sampling_params=SimpleNamespace(extra_args=extra_args),
        lora_request=LoRARequest(name, number, f"/adapters/{name}") if number else None,
    )


def test_model_runner_v2_masks_up_to_the_activation_point() -> None:
    """V2's ``LoraState`` with a base, an aLoRA, a plain LoRA and a never-activated call, over three steps."""
    # As in a worker: the runner's module is there before the runner makes its LoraState.
    from vllm.v1.worker.gpu.lora_utils import LoraState
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    state = LoraState(8)
    rows = [
        _request("base", 0, None),
        _request("alora", 1, 5),
        _request("lora", 2, None),
        _request("never", 3, NEVER),
    ]
    computed = np.zeros(8, dtype=np.int32)
    runner = SimpleNamespace(lora_state=state, req_states=SimpleNamespace(num_computed_tokens_np=computed))
    assert is_patched(GPUModelRunner.add_requests)
    for index, request in enumerate(rows):
        state.add_request(request.req_id, index, request.lora_request)
    _note(runner, rows)
    names, mapping = [request.req_id for request in rows], np.arange(4)
    scheduled = np.array([2, 4, 2, 2])
    _, first, _ = state.make_lora_inputs(names, mapping, scheduled)
    assert list(first) == [0, 0, 0, 0, 0, 0, 2, 2, 0, 0]
    computed[:4] += scheduled
    _, second, _ = state.make_lora_inputs(names, mapping, scheduled)
    assert list(second) == [0, 0, 0, 1, 1, 1, 2, 2, 0, 0]
    state.remove_request("alora")
    assert "alora" not in state._alora_pending


def _note(runner: Any, rows: list[Any]) -> None:
    """Run the plugin's part of ``add_requests`` without the runner's own, which needs a device."""
    from vllm_alora.patches.runner_v2 import _wrap_add_requests

    _wrap_add_requests(lambda self, scheduler_output: None)(runner, SimpleNamespace(scheduled_new_reqs=rows))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_alora_on_whole_request_weights_is_refused(target: str) -> None:
    """vLLM applies these a request, not a token: they cannot be masked."""
    from vllm.config import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    config = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", target], "alora_invocation_tokens": [7]}
    with pytest.raises(ValueError, match=f"aLoRA adapter cannot target '{target}'"):
        PEFTHelper.from_dict(config).validate_legal(LoRAConfig(max_lora_rank=8, max_loras=1))
    PEFTHelper.from_dict({**config, "target_modules": ["q_proj"]}).validate_legal(
        LoRAConfig(max_lora_rank=8, max_loras=1)
    )


def test_an_unknown_absent_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo must not choose one of the two silently."""
    from vllm_alora.decision import ABSENT_VARIABLE, absent_means_base

    monkeypatch.setenv(ABSENT_VARIABLE, "Base")
    with pytest.raises(ValueError, match="'Base'; accepted are 'error' and 'base'"):
        absent_means_base()
    monkeypatch.setenv(ABSENT_VARIABLE, "base")
    assert absent_means_base()
