"""Faults put into a copy of the plugin, one at a time, each with the test that must notice it.

    python tests/mutants.py [--live] [NAME ...]

Before anything is changed, those tests must pass in the copy. The plugin's self-check at load is taken out of the copy,
so that the tests are what notices. ``--live`` holds the faults that reach a CPU engine's answers to ``test_engine.py``
too, half a minute each.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import mutation
from mutation import Change, SourceTree, named, run_mutants

PLUGIN = SourceTree(
    root=Path(__file__).parents[1],
    copied=("vllm_alora", "tests", "pyproject.toml"),
    sources="vllm_alora",
    tests="tests",
    paths=(".",),
    preloaded=(
        "peft",
        "vllm.v1.engine.async_llm",
        "vllm.v1.engine.core",
        "vllm.v1.worker.gpu.model_runner",
    ),
    prepared=(Change("vllm_alora/__init__.py", "    check()\n", ""),),
    # An engine that starts beside other work takes minutes.
    test_timeout_s=600,
)
LIVE_TESTS = "tests/test_engine.py"


@dataclass(frozen=True)
class Mutant(mutation.Mutant):
    """A fault in the plugin.

    Attributes:
        is_live: whether a CPU engine's answers show it too.
    """

    is_live: bool = False


MUTANTS = (
    Mutant(
        "first invocation instead of the last",
        "activation.py",
        "range(len(token_ids) - width, -1, -1)",
        "range(len(token_ids) - width + 1)",
        "test_seams.py::test_activation_is_pefts",
        is_live=True,
    ),
    Mutant(
        "mask one token late",
        "patches/runner_v1.py",
        "np.minimum(activations - computed,",
        "np.minimum(activations + 1 - computed,",
        "test_runner_v2.py::test_a_chunk_is_masked_up_to_the_activation_point",
        is_live=True,
    ),
    Mutant(
        "mask one token early",
        "patches/runner_v1.py",
        "np.minimum(activations - computed,",
        "np.minimum(activations - 1 - computed,",
        "test_runner_v2.py::test_a_chunk_is_masked_up_to_the_activation_point",
        is_live=True,
    ),
    Mutant(
        "V1: no mask",
        "patches/runner_v1.py",
        "return prompt, mask(tokens, masked_spans(pending, req_ids, computed, num_scheduled_tokens)), active",
        "return prompt, tokens, active",
        "test_runner_v1.py::test_a_chunk_is_masked_up_to_the_activation_point",
        is_live=True,
    ),
    Mutant(
        "V1: a request that is over lends its point to the next of its name",
        "patches/runner_v1.py",
        "        _pending(self).pop(req_id, None)\n",
        "",
        "test_runner_v1.py::test_finished_requests_leave_nothing",
    ),
    Mutant(
        "V2: new requests have no activation point",
        "patches/runner_v2.py",
        "if activation is not None:",
        "if False:",
        "test_runner_v2.py::test_a_chunk_is_masked_up_to_the_activation_point",
    ),
    Mutant(
        "V2: positions by place in the batch instead of row",
        "patches/runner_v2.py",
        "STATES_ATTRIBUTE)[idx_mapping]",
        "STATES_ATTRIBUTE)[: len(idx_mapping)]",
        "test_runner_v2.py::test_rows_may_be_permuted",
    ),
    Mutant(
        "V2: a request that is over stays",
        "patches/runner_v2.py",
        "        getattr(self, _PENDING).pop(req_id, None)\n",
        "",
        "test_runner_v2.py::test_finished_and_aborted_requests_leave_nothing",
    ),
    Mutant(
        "kernel metadata: ids of the step before are left",
        "patches/kernel_metadata.py",
        "        self.token_lora_mapping.fill_(NO_SLOT)\n",
        "",
        "test_runner_v2.py::test_a_masked_step_after_an_adapted_one_leaves_no_id_to_read",
    ),
    Mutant(
        "kernel metadata: rows that pad a graph are left",
        "patches/kernel_metadata.py",
        "self.token_lora_mapping.fill_(",
        "self.token_lora_mapping[: len(token_lora_mapping)].fill_(",
        "test_runner_v2.py::test_rows_that_pad_a_graph_have_no_adapter",
    ),
    Mutant(
        "CPU kernels: slot -1 is read",
        "patches/cpu_lora.py",
        "itertools.groupby(slots.tolist())",
        "itertools.groupby(slots.where(slots >= 0, 2).tolist())",
        "test_seams.py::test_the_cpu_wrapper_adds_each_tokens_own_adapter",
    ),
    Mutant(
        "keys: the block of the activation point is the base model's",
        "patches/block_hash.py",
        "activation >= end_token_idx",
        "activation > start_token_idx",
        "test_keys.py::test_from_the_activation_point_on_blocks_are_the_adapters",
        is_live=True,
    ),
    Mutant(
        "keys: that block does not say where the point is",
        "patches/block_hash.py",
        "    if inside:\n",
        "    if False:\n",
        "test_keys.py::test_from_the_activation_point_on_blocks_are_the_adapters",
    ),
    Mutant(
        "keys: salts are dropped with the adapter",
        "patches/block_hash.py",
        "return others or None, mm_idx",
        "return None, mm_idx",
        "test_keys.py::test_blocks_before_the_activation_point_have_exactly_the_base_models_keys",
        is_live=True,
    ),
    Mutant(
        "keys: no weights",
        "patches/block_hash.py",
        "    if weights:\n",
        "    if False:\n",
        "test_reloads.py::test_kv_events_say_which_weights_a_block_is_of",
    ),
    Mutant(
        "events: the base part is not published",
        "patches/kv_events.py",
        "        self.kv_event_queue.append(base)\n",
        "",
        "test_events.py::test_blocks_before_the_activation_point_are_published_as_the_base_models_own",
        is_live=True,
    ),
    Mutant(
        "events: the base part names the adapter",
        "patches/kv_events.py",
        "replaced(event, lora_id=None, lora_name=None, **before)",
        "replaced(event, **before)",
        "test_events.py::test_blocks_before_the_activation_point_are_published_as_the_base_models_own",
    ),
    Mutant(
        "events: the adapter part hangs on the wrong parent",
        "patches/kv_events.py",
        "replaced(event, parent_block_hash=parent, **after)",
        "replaced(event, **after)",
        "test_events.py::test_blocks_before_the_activation_point_are_published_as_the_base_models_own",
    ),
    Mutant(
        "events: offloaded chunks are not split",
        "patches/kv_event_producers.py",
        "    elif base_blocks:\n",
        "    elif False:\n",
        "test_events.py::test_offloaded_chunks_are_split_at_the_activation_point",
    ),
    Mutant(
        "events: the Mooncake store names the adapter on all blocks",
        "patches/kv_event_producers.py",
        "if event.block_hashes[-1] not in base:",
        "if True:",
        "test_events.py::test_the_mooncake_store_names_the_adapter_from_the_activation_point_on",
    ),
    Mutant(
        "reload: a running request goes on under its old weights",
        "patches/reload.py",
        "            go_on_mixed(request, request.num_computed_tokens)\n",
        "",
        "test_reloads.py::test_a_request_that_runs_across_a_reload_shares_no_block_that_it_completes_afterwards",
    ),
    Mutant(
        "reload: a running request takes the new weights' keys",
        "patches/reload.py",
        "            go_on_mixed(request, request.num_computed_tokens)\n",
        "            begin_again(request)\n",
        "test_reloads.py::test_a_request_that_runs_across_a_reload_shares_no_block_that_it_completes_afterwards",
    ),
    Mutant(
        "reload: requests on their way in keep old keys",
        "patches/reload.py",
        "            _key_again([request], request.lora_request.lora_int_id)\n",
        "",
        "test_reloads.py::test_one_that_arrives_before_a_reload_and_is_scheduled_after_it_has_the_new_keys",
    ),
    Mutant(
        "reload: preempted requests keep old keys",
        "patches/reload.py",
        "            _begin_again(request)\n        return preempted",
        "            pass\n        return preempted",
        "test_interleavings.py::test_no_interleaving_files_kv_under_a_name_of_other_kv",
    ),
    Mutant(
        "reload: old requests bring old weights back",
        "patches/worker_lora.py",
        "lora_request = latest.get(lora_request.lora_int_id, lora_request)",
        "pass",
        "test_reloads.py::test_a_request_from_before_a_reload_does_not_bring_the_old_weights_back",
    ),
    Mutant(
        "slots: a load takes the slot of an adapter that runs",
        "patches/slots.py",
        "if _IS_LOAD.get() and",
        "if False and",
        "test_slots.py::test_an_adapter_that_is_loaded_takes_no_slot_of_another",
    ),
    Mutant(
        "slots: a step takes the slot of an adapter that it runs",
        "patches/slots.py",
        "active.touch(lora_request.lora_int_id)",
        "pass",
        "test_slots.py::test_a_step_takes_no_slot_of_an_adapter_that_it_runs",
    ),
    Mutant(
        "generations: a name for each load instead of a digest",
        "reloads.py",
        "generation = self._digest(lora_request) or _unique()",
        "generation = _unique()",
        "test_reloads.py::test_engines_that_loaded_the_same_weights_agree_whatever_they_loaded_before",
    ),
    Mutant(
        "admission: the engine core believes what came",
        "patches/admission.py",
        "        decide(SimpleNamespace(**{**_ABSENT",
        "        SimpleNamespace(**({**_ABSENT",
        "test_admission.py::test_an_alora_request_has_its_activation_point_whatever_came_with_it",
    ),
    Mutant(
        "served models: a refused load stays vLLM's 500",
        "patches/served_models.py",
        '        replace(module.OpenAIServingModels, "load_lora_adapter", _wrap_load, "request")\n',
        "",
        "test_served_models.py::test_a_configuration_at_fault_is_a_400",
    ),
)


def main() -> int:
    """Run every mutant's tests; return how many runs noticed nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--live", action="store_true", help="hold what an engine shows to test_engine.py too")
    parser.add_argument("names", nargs="*", help="of mutants (default: all)")
    options = parser.parse_args()
    try:
        chosen = named(MUTANTS, options.names)
    except ValueError as error:
        parser.error(str(error))
    runs = [(mutant, PLUGIN.nodes(mutant)) for mutant in chosen]
    if options.live:
        runs += [(mutant, [LIVE_TESTS]) for mutant in chosen if mutant.is_live]
    return run_mutants(PLUGIN, runs)


if __name__ == "__main__":
    sys.exit(main())
