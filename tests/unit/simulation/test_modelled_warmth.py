"""Modelled replicas warm up and hand over by the live code, and gateways hold calls that no replica has room for."""

from __future__ import annotations

from aloraserve.engine_model.calibration import load
from aloraserve.routing.prefill_model import PrefillModel
from aloraserve.scaling.base import FleetReading, Reason, ScalingDecision
from aloraserve.simulation.fleet import FleetSettings
from aloraserve.simulation.load_shapes import shaped_rows
from aloraserve.simulation.modelled_warmth import ReplicaMemory, warm_start
from aloraserve.simulation.platform_router import WAITING_ROOM
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.scaled_fleet import Growth, ScaledFleet
from aloraserve.simulation.scaling_study import ROUTER
from aloraserve.simulation.simulated_loop import SimulatedLoop
from aloraserve.simulation.workload import Workload, WorkloadSettings

BLOCK = 10
PREFILL = PrefillModel(s_per_token=0.01)
A, B, C, D = (bytes([number]) * 16 for number in range(4))


def remembering(*prompts: list[bytes]) -> ReplicaMemory:
    memory = ReplicaMemory(SimulatedLoop(), BLOCK)
    for keys in prompts:
        memory.note(keys)
    return memory


def test_a_new_replica_computes_what_most_calls_of_the_fleet_had_first() -> None:
    peers = [(3, remembering([A, B], [A, B, C], [A], [A])), (1, remembering([A, D]))]
    warm = warm_start(peers, PREFILL, block_tokens=BLOCK, budget_s=10.0, max_tokens=1000)
    assert next(keys for keys, _ in warm.prefixes) == [A]
    assert {len(keys) for keys, _ in warm.prefixes} == {1, 2, 3}
    assert warm.seconds == 0.4, "each block once"


def test_it_computes_no_more_than_it_has_time_and_room_for() -> None:
    peers = [(3, remembering([A, B, C], [D]))]
    assert warm_start(peers, PREFILL, block_tokens=BLOCK, budget_s=0.05, max_tokens=1000).prefixes == []
    assert len(warm_start(peers, PREFILL, block_tokens=BLOCK, budget_s=10.0, max_tokens=1).prefixes) == 1


class Watching:
    """Keeps one replica, and notes the most calls that wait in gateways and the most in an engine."""

    def __init__(self) -> None:
        self.waiting = self.in_engine = 0

    def decide(self, reading: FleetReading) -> ScalingDecision:
        self.waiting = max(self.waiting, reading.demands[0].waiting)
        self.in_engine = max(self.in_engine, (reading.ongoing or 0) - reading.demands[0].waiting)
        return ScalingDecision(1, Reason.COUNTS, 1)


def test_calls_that_no_replica_has_room_for_wait_in_the_gateways_and_all_are_answered() -> None:
    calibration = load("h100-llama-3.1-8b").model_copy(update={"max_num_seqs": 1})
    rows = shaped_rows("flash-crowd", 1, duration_s=10.0, peak_per_s=6.0)
    workload = Workload(rows, WorkloadSettings(evaluators=0, lora_share=0.0))
    scaler = Watching()
    fleet = ScaledFleet(FleetSettings(calibration, 2), workload, router_factory(ROUTER), scaler, Growth(initial=1))
    result = fleet.run_scaled()
    assert scaler.waiting > 0
    assert scaler.in_engine <= WAITING_ROOM
    assert len(result.run.records) == len(rows)
    assert all(record.e2e_s < float("inf") for record in result.run.records)
