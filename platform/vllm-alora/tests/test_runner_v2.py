"""Model Runner V2 step by step: its own request, batch and LoRA states, and the metadata its kernels read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_alora import self_check
from vllm_alora.activation import ACTIVATION_KEY, NEVER
from vllm_alora.patches import front_end, kernel_metadata, runner_v2
from vllm_alora.patches.seam import UnsupportedVllmError, is_patched

MAX_LORAS = 2
SLOTS = [11, 12]
"""Adapter id in each slot; 0 is vLLM's "no adapter"."""


@dataclass
class Runner:
    """A V2 runner without a model: its requests come, go and are batched by its own code."""

    runner: Any
    computed: dict[str, int] = field(default_factory=dict)

    def step(
        self,
        scheduled: dict[str, int],
        *,
        new: Sequence[Any] = (),
        finished: Sequence[str] = (),
        preempted: Sequence[str] = (),
        drafts: dict[str, list[int]] | None = None,
    ) -> dict[str, list[int]]:
        """Run the part of a step that comes before the model and return each request's adapter ids, one a token."""
        from vllm.v1.core.sched.output import SchedulerOutput

        output = SchedulerOutput.make_empty()
        output.scheduled_new_reqs = list(new)
        output.finished_req_ids = set(finished)
        output.preempted_req_ids = set(preempted)
        output.num_scheduled_tokens = scheduled
        output.total_num_scheduled_tokens = sum(scheduled.values())
        output.scheduled_spec_decode_tokens = drafts or {}
        for request in new:
            self.computed[request.req_id] = request.num_computed_tokens
        cached = output.scheduled_cached_reqs
        cached.req_ids = [name for name in scheduled if name not in {request.req_id for request in new}]
        cached.num_computed_tokens = [self.computed[name] for name in cached.req_ids]
        cached.new_block_ids = [None] * len(cached.req_ids)
        self.runner.finish_requests(output)
        self.runner.add_requests(output)
        self.runner.update_requests(output)
        batch, _ = self.runner.gather_batch_req_state(output, False)
        for name, count in scheduled.items():
            self.computed[name] += count
        self.prompt_ids, self.token_ids, self.active = self.runner.lora_state.make_lora_inputs(
            batch.req_ids, batch.idx_mapping_np, batch.num_scheduled_tokens
        )
        ends = np.cumsum(batch.num_scheduled_tokens)
        return {
            name: [int(slot) for slot in self.token_ids[end - count : end]]
            for name, count, end in zip(batch.req_ids, batch.num_scheduled_tokens, ends, strict=True)
        }


def unpinned(zeros: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Make memory that a GPU would map without pinning it, which needs a GPU."""
    return lambda *args, pin_memory=False, **kwargs: zeros(*args, **kwargs)


@pytest.fixture(scope="module")
def make_runner() -> Callable[[], Runner]:
    """Make runners whose buffers lie in plain memory."""
    from vllm.v1.worker.gpu import buffer_utils
    from vllm.v1.worker.gpu.lora_utils import LoraState
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.states import RequestState

    runner_v2.apply()
    runner_v2.apply()

    def make() -> Runner:
        runner = object.__new__(GPUModelRunner)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "zeros", unpinned(torch.zeros))
            patch.setattr(buffer_utils, "get_accelerator_view_from_cpu_tensor", lambda tensor: tensor)
            patch.setattr(buffer_utils, "is_uva_available", lambda: True)
            runner.req_states = RequestState(16, 256, 256, 3, 1000, torch.device("cpu"))
        runner.req_states.apply_staged_writes = lambda: None
        runner.lora_state = LoraState(16)
        runner.model_state = MagicMock()
        runner.block_tables = MagicMock()
        for absent in (
            "pooling_runner",
            "pp_handler",
            "encoder_cache",
            "prompt_logprobs_worker",
            "adaptive_verification",
            "sampler",
            "pcp_manager",
        ):
            setattr(runner, absent, None)
        runner.is_last_pp_rank = runner.use_pp = False
        runner.decode_query_len = 1
        return Runner(runner)

    return make


@pytest.fixture
def runner(make_runner: Callable[[], Runner]) -> Runner:
    """One runner."""
    return make_runner()


def new_request(
    name: str, adapter: int, activation: int | None, prompt: int = 64, computed: int = 0, output: int = 0
) -> Any:
    """Return what the scheduler sends of a request that the runner does not have."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.core.sched.output import NewRequestData

    extra_args = None if activation is None else {ACTIVATION_KEY: activation}
    return NewRequestData(
        req_id=name,
        prompt_token_ids=[5] * prompt,
        mm_features=[],
        sampling_params=SamplingParams(max_tokens=8, extra_args=extra_args),
        pooling_params=None,
        block_ids=([],),
        num_computed_tokens=computed,
        lora_request=LoRARequest(f"adapter-{adapter}", adapter, "/nowhere") if adapter else None,
        prefill_token_ids=[5] * (prompt + output),
    )


def test_one_layer_of_patches_after_two_loads(runner: Runner) -> None:
    """vLLM may load a plugin more than once, and a process may make more than one runner."""
    for function in (type(runner.runner).add_requests, type(runner.runner.lora_state).make_lora_inputs):
        assert is_patched(function)
        assert not is_patched(function.__wrapped__)


@pytest.mark.parametrize(("activation", "masked"), [(0, [0, 0, 0]), (5, [5, 0, 0]), (8, [8, 0, 0]), (11, [8, 3, 0])])
def test_a_chunk_is_masked_up_to_the_activation_point(runner: Runner, activation: int, masked: list[int]) -> None:
    """Chunks of 8 tokens end after, at and before the activation point."""
    request = new_request("a", 11, activation, prompt=24)
    for index, count in enumerate(masked):
        ids = runner.step({"a": 8}, new=[request] if index == 0 else [])
        assert ids["a"] == [0] * count + [11] * (8 - count)
    assert runner.step({"a": 1})["a"] == [11]


def test_base_lora_and_alora_requests_share_a_batch_in_any_order(runner: Runner) -> None:
    """The runner orders a batch by length: each request's tokens follow its own activation point."""
    requests = [
        new_request("long", 11, 20),
        new_request("base", 0, None),
        new_request("lora", 12, None),
        new_request("never", 11, NEVER),
        new_request("short", 12, 2),
    ]
    ids = runner.step({"long": 30, "base": 9, "lora": 12, "never": 7, "short": 4}, new=requests)
    assert ids == {
        "long": [0] * 20 + [11] * 10,
        "base": [0] * 9,
        "lora": [12] * 12,
        "never": [0] * 7,
        "short": [0] * 2 + [12] * 2,
    }
    # Requests of which no token is adapted in this step still hold their adapter's slot.
    assert {adapter.lora_int_id for adapter in runner.active} == {11, 12}
    assert sorted(map(int, runner.prompt_ids)) == [0, 11, 11, 12, 12]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_token_follows_its_position_whatever_the_schedule(
    make_runner: Callable[[], Runner], data: st.DataObject
) -> None:
    """Random chunks of random requests that start warm, come and go; order and rows change from step to step."""
    runner, made = make_runner(), 0
    alive: dict[str, tuple[int, int]] = {}
    gone: list[str] = []
    for _ in range(data.draw(st.integers(1, 6))):
        ended = [name for name in alive if data.draw(st.booleans(), label=f"{name} ends")]
        for name in ended:
            del alive[name]
        gone += ended
        new = []
        for _ in range(data.draw(st.integers(0, 3))):
            adapter, activation = data.draw(
                st.one_of(
                    st.just((0, None)),
                    st.tuples(st.sampled_from(SLOTS), st.one_of(st.none(), st.integers(0, 60), st.just(NEVER))),
                )
            )
            made += 1
            new.append(new_request(f"r{made}", adapter, activation, computed=data.draw(st.integers(0, 20))))
            alive[f"r{made}"] = (adapter, activation or 0)
        if not alive:
            continue
        started = {request.req_id: request.num_computed_tokens for request in new}
        at = {name: started.get(name, runner.computed.get(name, 0)) for name in alive}
        scheduled = {name: data.draw(st.integers(1, 12)) for name in alive}
        ids = runner.step(scheduled, new=new, finished=gone)
        gone.clear()
        for name, (adapter, activation) in alive.items():
            positions = range(at[name], at[name] + scheduled[name])
            assert ids[name] == [adapter if position >= activation else 0 for position in positions]
        assert set(runner.runner.lora_state._alora_pending) <= set(alive)


def test_a_preempted_request_is_masked_again_when_it_comes_back(runner: Runner) -> None:
    """V2 drops a preempted request and gets it back as a new one, with its own output in the prefill."""
    runner.step({"a": 16}, new=[new_request("a", 11, 10, prompt=16)])
    assert runner.step({"a": 1})["a"] == [11]
    runner.step({"b": 1}, new=[new_request("b", 0, None)], preempted=["a"])
    assert not runner.runner.lora_state._alora_pending
    back = new_request("a", 11, 10, prompt=16, computed=4, output=1)
    assert runner.step({"a": 13}, new=[back])["a"] == [0] * 6 + [11] * 7


def test_a_request_set_back_before_its_activation_point_is_masked_again(runner: Runner) -> None:
    """A failed load of KV blocks sends a running request back to positions that it had passed."""
    runner.step({"a": 16}, new=[new_request("a", 11, 10, prompt=16, computed=8)])
    runner.computed["a"] = 4
    assert runner.step({"a": 12})["a"] == [0] * 6 + [11] * 6


def test_a_streaming_update_replaces_the_activation_point(runner: Runner) -> None:
    """An update comes as a new request of a known name; an ordinary one must not keep the old mask."""
    runner.step({"a": 8}, new=[new_request("a", 11, 30)])
    assert runner.step({"a": 8}, new=[new_request("a", 11, 4)])["a"] == [0] * 4 + [11] * 4
    assert runner.step({"a": 8}, new=[new_request("a", 12, None)])["a"] == [12] * 8
    assert not runner.runner.lora_state._alora_pending


def test_finished_and_aborted_requests_leave_nothing(runner: Runner) -> None:
    """Names are reused by no one, so an entry that stays would stay for ever."""
    runner.step({"a": 4, "b": 4}, new=[new_request("a", 11, 30), new_request("b", 12, 30)])
    runner.step({"b": 4}, finished=["a", "unknown"])
    assert set(runner.runner.lora_state._alora_pending) == {"b"}
    # The row of "a" goes to a plain LoRA request, which has no mask.
    assert runner.step({"b": 4, "c": 4}, new=[new_request("c", 11, None)])["c"] == [11] * 4


def test_drafts_and_optimistic_positions_change_nothing_after_activation(runner: Runner) -> None:
    """Speculative and async decoding: positions run ahead of the truth, all of them after the prompt."""
    runner.runner.decode_query_len = 4
    runner.step({"a": 16, "b": 8}, new=[new_request("a", 11, 15, prompt=16), new_request("b", 12, 40)])
    runner.computed["a"] += 3
    ids = runner.step({"b": 8, "a": 4}, drafts={"a": [1, 2, 3]})
    assert ids == {"a": [11] * 4, "b": [0] * 8}


def test_rows_may_be_permuted(runner: Runner) -> None:
    """The batch's order is not that of the runner's rows; each row has its own position."""
    names = ["a", "b", "c"]
    new = [new_request(name, 11, 4 + i, computed=3 * i) for i, name in enumerate(names)]
    runner.step(dict.fromkeys(names, 1), new=new)
    rows = runner.runner.req_states.req_id_to_index
    for order in (["c", "a", "b"], ["b", "c"], ["c", "b", "a"]):
        mapping = np.array([rows[name] for name in order])
        scheduled = np.full(len(order), 8, dtype=np.int32)
        _, ids, _ = runner.runner.lora_state.make_lora_inputs(order, mapping, scheduled)
        masked = {name: max(0, 4 - 2 * i) for i, name in enumerate(names)}
        expected = [[0] * masked[name] + [11] * (8 - masked[name]) for name in order]
        assert [int(slot) for slot in ids] == [slot for row in expected for slot in row]


def test_a_dummy_batch_has_no_mask(runner: Runner) -> None:
    """Profiling and graph capture make batches of unknown requests, whose rows may belong to real ones."""
    from vllm.v1.worker.gpu.input_batch import InputBatch, InputBuffers

    runner.step({"a": 4}, new=[new_request("a", 11, 30)])
    dummy = InputBatch.make_dummy(3, 10, InputBuffers(16, 64, torch.device("cpu")))
    _, ids, active = runner.runner.lora_state.make_lora_inputs(
        dummy.req_ids, dummy.idx_mapping_np, dummy.num_scheduled_tokens
    )
    assert len(ids) == 10
    assert not active


def test_a_vllm_that_keeps_positions_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the plugin is loaded, not at the first request: without positions an aLoRA request would run unmasked."""
    from vllm.v1.worker.gpu import states

    monkeypatch.setattr(states, "RequestState", type("RequestState", (), {"__init__": lambda self: None}))
    with pytest.raises(UnsupportedVllmError, match="has no num_computed_tokens_np"):
        self_check._check_mask_of_runner_v2()


@dataclass
class Kernels:
    """What vLLM's GPU LoRA kernels read, made from a batch's adapter ids."""

    meta: Any
    tokens: list[int]
    specialize: bool

    @property
    def rows_by_slot(self) -> dict[int, list[int]]:
        """Token rows by slot, as the kernels walk them; they skip slot -1."""
        order, starts = self.meta.token_indices_sorted_by_lora_ids, self.meta.lora_token_start_loc
        return {
            slot: order[starts[index] : starts[index] + self.meta.num_tokens_per_lora[index]].tolist()
            for index, slot in enumerate(self.meta.active_lora_ids.tolist()[: self.grid])
            if slot >= 0
        }

    @property
    def grid(self) -> int:
        """How many entries of the adapter list the kernels are launched for."""
        return int(self.meta.meta_args(len(self.tokens), self.specialize)[-1].item())


def kernels(token_ids: Sequence[int], *, specialize: bool = False, captured: list[int] | None = None) -> Kernels:
    """Make the kernels' metadata as ``PunicaWrapperGPU`` does, after a step in which every token had an adapter."""
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
    from vllm.lora.punica_wrapper.utils import convert_mapping

    mapping = LoRAMapping(tuple(token_ids), (0,), is_prefill=True)
    slots, *_ = convert_mapping(mapping, SLOTS, MAX_LORAS, 1000, torch.device("cpu"))
    kernel_metadata.apply()
    meta = LoRAKernelMeta.make(MAX_LORAS, 256, "cpu", captured_lora_counts=captured)
    meta.prepare_tensors(torch.tensor([1] * 100))
    meta.prepare_tensors(slots)
    return Kernels(meta, list(token_ids), specialize)


def test_masked_tokens_reach_the_kernels_without_an_adapter(runner: Runner) -> None:
    """With every slot in use and masked tokens beside, each adapter still gets exactly its own tokens."""
    runner.step(
        {"a": 6, "b": 5, "base": 3, "c": 4},
        new=[
            new_request("a", 11, 4),
            new_request("b", 12, 3),
            new_request("base", 0, None),
            new_request("c", 11, None),
        ],
    )
    ids = [int(slot) for slot in runner.token_ids]
    assert {0, *SLOTS} == set(ids)
    made = kernels(runner.token_ids)
    assert made.meta.active_lora_ids.tolist() == [-1, 0, 1]
    assert made.rows_by_slot == {
        slot: [row for row, adapter in enumerate(ids) if adapter == SLOTS[slot]] for slot in range(MAX_LORAS)
    }
    mapped = made.meta.token_lora_mapping[: len(ids)].tolist()
    assert [slot for slot, adapter in zip(mapped, ids, strict=True) if adapter == 0] == [-1] * ids.count(0)


def test_a_batch_of_masked_tokens_alone_runs_no_adapter(runner: Runner) -> None:
    """It is dispatched as a batch with adapters, so a captured graph runs its kernels: they find none.

    Those of expert layers read the mapping alone when a step has few tokens (naive block assignment).
    """
    from vllm.v1.worker.gpu.lora_utils import get_num_active_loras_for_dispatch

    runner.step({"a": 6, "b": 3}, new=[new_request("a", 11, 20), new_request("b", 12, NEVER)])
    assert get_num_active_loras_for_dispatch(MagicMock(), runner.runner.lora_state, ["a", "b"], False) == 2
    made = kernels(runner.token_ids)
    assert bool(made.meta.no_lora_flag_cpu)
    assert made.meta.active_lora_ids.tolist() == [-1] * (MAX_LORAS + 1)
    assert made.rows_by_slot == {}
    assert set(made.meta.token_lora_mapping.tolist()) == {-1}


def test_rows_that_pad_a_graph_have_no_adapter(runner: Runner) -> None:
    """A graph is captured for a round number of tokens and reads the mapping that far."""
    runner.step({"a": 6, "b": 3}, new=[new_request("a", 11, 2), new_request("b", 12, 1)])
    assert set(kernels(runner.token_ids).meta.token_lora_mapping.tolist()[9:]) == {-1}


@pytest.mark.parametrize("activation", [NEVER, 30], ids=["absent", "prefill before the point"])
def test_a_masked_step_after_an_adapted_one_leaves_no_id_to_read(runner: Runner, activation: int) -> None:
    """One engine's metadata over two steps: an adapter decodes, then a request of the base model's tokens alone."""
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta
    from vllm.lora.punica_wrapper.utils import convert_mapping

    kernel_metadata.apply()
    meta = LoRAKernelMeta.make(MAX_LORAS, 64, "cpu")
    for name, request in (("on", new_request("on", 11, 0)), ("off", new_request("off", 11, activation))):
        runner.step({name: 1}, new=[request])
        mapping = LoRAMapping(tuple(runner.token_ids), (0,), is_prefill=True)
        slots, *_ = convert_mapping(mapping, SLOTS, MAX_LORAS, 1000, torch.device("cpu"))
        meta.prepare_tensors(slots)
        seen = meta.meta_args(1, False)
        assert seen[0].tolist() == ([0] if name == "on" else [-1])
        assert [slot for slot in seen[4].tolist() if slot >= 0] == ([0] if name == "on" else [])


def test_the_graphs_grid_has_room_for_every_adapter_and_masked_tokens(runner: Runner) -> None:
    """Without ``specialize_active_lora`` every graph is captured for one entry more than there are slots."""
    from vllm.config import CompilationConfig, LoRAConfig
    from vllm.v1.worker.gpu.lora_utils import get_lora_capture_cases

    runner.step({"a": 6, "b": 5}, new=[new_request("a", 11, 4), new_request("b", 12, 3)])
    config = LoRAConfig(max_lora_rank=8, max_loras=MAX_LORAS)
    assert set(get_lora_capture_cases(config, CompilationConfig())) == {0, MAX_LORAS + 1}
    made = kernels(runner.token_ids)
    assert made.grid == MAX_LORAS + 1
    assert set(made.rows_by_slot) == {0, 1}


def test_with_specialized_graphs_masked_tokens_would_cost_the_last_adapter(runner: Runner) -> None:
    """Dispatch counts adapters alone, the kernels' list has the masked tokens' entry too: hence the refusal."""
    from vllm.lora.utils import get_captured_lora_counts
    from vllm.v1.worker.gpu.lora_utils import get_num_active_loras_for_dispatch

    runner.step({"a": 6, "b": 5}, new=[new_request("a", 11, 4), new_request("b", 12, 3)])
    counted = get_num_active_loras_for_dispatch(MagicMock(), runner.runner.lora_state, ["a", "b"], False)
    captured = get_captured_lora_counts(MAX_LORAS, True)
    graph = min(count for count in captured if count >= counted)
    assert kernels(runner.token_ids, specialize=True, captured=captured).grid > graph


def test_specialized_graphs_are_refused_for_alora() -> None:
    """The front end says which flag to turn off, before anything runs."""
    from vllm.config import LoRAConfig
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    request = SimpleNamespace(
        lora_request=LoRARequest("certainty", 1, "/nowhere"),
        sampling_params=object(),
        prompt_token_ids=[1],
        prompt_embeds=None,
        resumable=False,
    )
    config = MagicMock(lora_config=LoRAConfig(max_lora_rank=8, max_loras=MAX_LORAS, specialize_active_lora=True))
    config.parallel_config.prefill_context_parallel_size = 1
    with pytest.raises(VLLMValidationError, match=r"'certainty'.*specialize_active_lora"):
        front_end._refuse_unsupported(config, request)
