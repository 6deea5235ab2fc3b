"""Faults of the simulator and of the engine's model."""

from __future__ import annotations

from mutation import Mutant

SIMULATION = (
    Mutant(
        "simulated claims are never settled",
        "simulation/replica_publisher.py",
        "        self._settled.append(claim_id)\n",
        "",
        "unit/simulation/test_platform_router.py::test_a_claim_is_settled_by_the_report_after_its_call_arrived "
        "unit/simulation/test_fleet.py::test_no_claim_is_open_once_all_calls_ended",
    ),
    Mutant(
        "lost KV events are never replayed",
        "simulation/replica_publisher.py",
        "            self._ingest.offer(missed)\n",
        "            pass\n",
        "unit/simulation/test_platform_router.py::test_lost_events_are_replayed_with_the_next "
        "unit/simulation/test_fleet.py::test_after_a_fault_the_directory_is_right_again "
        "unit/simulation/test_fleet.py::test_late_and_lost_events_cost_hits_at_most",
    ),
    Mutant(
        "the claim of a call that is lost stays",
        "simulation/platform_router.py",
        "        await placed.gateway.withdraw(placed.call, placed.placement, placed.claim_id)\n",
        "",
        "unit/simulation/test_platform_router.py::test_the_claim_of_a_call_that_is_lost_is_withdrawn",
    ),
    Mutant(
        "a call that another replica takes leaves its claim where it was",
        "simulation/platform_router.py",
        "            placement = await gateway.move(routed, placement, taker, claim_id)\n",
        "            pass\n",
        "unit/simulation/test_platform_router.py::test_a_call_that_a_full_replica_does_not_take_moves_with_its_claim",
    ),
    Mutant(
        "the directory keeps its content in an outage",
        "simulation/simulated_directory.py",
        "            self.clear()\n",
        "            pass\n",
        "unit/simulation/test_platform_router.py::test_after_an_outage_everything_is_pushed_again",
    ),
    Mutant(
        "a dead replica keeps its lease",
        "simulation/replica_publisher.py",
        "lambda: self._loop.spawn(self._lapse())",
        "lambda: None",
        "unit/simulation/test_platform_router.py"
        "::test_the_lease_of_a_dead_replica_lapses_two_seconds_after_its_last_report",
    ),
    Mutant(
        "delayed events overtake each other",
        "simulation/modelled_replica.py",
        "elif delay_s <= 0 and self._delivered_s <= now_s:",
        "elif delay_s <= 0:",
        "unit/simulation/test_fleet.py::test_after_a_fault_the_directory_is_right_again",
    ),
    Mutant(
        "a turn's evaluators are forgotten",
        "simulation/fleet.py",
        'if call.kind == "base":',
        'if call.kind == "lora":',
        "unit/simulation/test_fleet.py::test_every_router_answers_every_call_and_is_its_seeds",
    ),
    Mutant(
        "an aLoRA's blocks are its own from the first on",
        "simulation/workload.py",
        'adapter if kind == "lora" else None',
        "adapter",
        "unit/simulation/test_workload.py::test_evaluators_share_what_their_kind_may_share",
    ),
    Mutant(
        "cached tokens count as queued",
        "simulation/modelled_engine.py",
        "return request.num_prompt_tokens - cached,",
        "return request.num_prompt_tokens,",
        "unit/simulation/test_modelled_engine.py::test_what_is_cached_is_not_queued",
    ),
    Mutant(
        "a chain loses its head first",
        "engine_model/block_cache.py",
        "        for key in reversed(request.keys):\n",
        "        for key in request.keys:\n",
        "unit/engine_model/test_block_cache.py::test_a_chain_loses_its_tail_first "
        "unit/engine_model/test_block_cache.py::test_it_does_what_the_plain_cache_does",
    ),
)
