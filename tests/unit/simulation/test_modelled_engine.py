"""One modelled engine of the fleet: its load, its events as the directory keeps them, and calls that are given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aloraserve.directory.base import Holding, anchor
from aloraserve.engine_model.calibration import Calibration
from aloraserve.simulation.base import SimulatedCall
from aloraserve.simulation.modelled_engine import ModelledEngine, StepResult
from aloraserve.simulation.simulated_loop import SimulatedLoop

MakeCall = Callable[..., SimulatedCall]


class Fixture:
    """An engine on a queue of its own, and what its steps brought."""

    def __init__(self, calibration: Calibration) -> None:
        self.queue = SimulatedLoop()
        self.steps: list[StepResult] = []
        self.engine = ModelledEngine(
            calibration, self.queue, self.steps.append, kv_tokens=calibration.kv_tokens, block_tokens=16
        )


@pytest.fixture
def fixture(calibration: Calibration) -> Fixture:
    return Fixture(calibration)


def test_what_a_replica_publishes_is_what_it_has_to_do(fixture: Fixture, make_call: MakeCall) -> None:
    engine = fixture.engine
    engine.submit(make_call(64, 5, adapter="a", kind="lora"))
    engine.submit(make_call(48, stream=1))
    load = engine.load()
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 2, 112)
    assert load.queued_prefill_s == pytest.approx(2 * 0.010 + 112 * 0.001)
    assert load.running_tokens == 69 + 49
    assert engine.active_adapters == ("a",)
    fixture.queue.run()
    idle = engine.load()
    assert (idle.running, idle.waiting, idle.queued_prefill_tokens, idle.running_tokens) == (0, 0, 0, 0)
    assert idle.queued_prefill_s == pytest.approx(0.0)
    assert idle.kv_usage == 0.0


def test_what_is_cached_is_not_queued(fixture: Fixture, make_call: MakeCall) -> None:
    fixture.engine.submit(make_call(64))
    fixture.queue.run()
    fixture.engine.submit(make_call(68))
    assert fixture.engine.load().queued_prefill_tokens == 4


def test_kv_events_name_places_in_chains(fixture: Fixture, make_call: MakeCall) -> None:
    call = make_call(800, 1)
    fixture.engine.submit(call)
    fixture.queue.run()
    stored: list[Holding] = [holding for step in fixture.steps for one, _ in step.kv_events for holding in one]
    assert [holding.key for holding in stored] == call.keys
    assert all(holding.anchor == anchor(call.keys, index) for index, holding in enumerate(stored))
    assert {holding.head for holding in stored} == {call.keys[0]}


def test_a_call_that_is_given_up_is_not_load_any_more(fixture: Fixture, make_call: MakeCall) -> None:
    engine = fixture.engine
    stays = engine.submit(make_call(64, 5))
    given_up = engine.submit(make_call(48, 5, stream=1, adapter="a", kind="lora"))
    engine.cancel(given_up)
    load = engine.load()
    assert (load.waiting, load.queued_prefill_tokens, load.running_tokens) == (1, 64, 69)
    assert engine.active_adapters == ()
    fixture.queue.run()
    assert [request for step in fixture.steps for request in step.finished] == [stays]
    engine.cancel(stays)
    assert engine.load().running_tokens == 0


def test_a_killed_engine_does_nothing_more(fixture: Fixture, make_call: MakeCall) -> None:
    requests = [fixture.engine.submit(make_call(64, 5, stream=stream)) for stream in range(2)]
    assert fixture.engine.kill() == requests
    fixture.queue.run()
    assert fixture.steps == []


def test_a_load_holds_up_its_own_call_alone(fixture: Fixture, make_call: MakeCall) -> None:
    """It begins after 0.5 s; the other one does not wait for it, as it would for a load amid the step."""
    adapted = fixture.engine.submit(make_call(64, 1, adapter="a", kind="lora"))
    base = fixture.engine.submit(make_call(64, 1, stream=1))
    fixture.queue.run()
    assert base.first_token_s == pytest.approx(0.074)
    assert adapted.first_token_s == pytest.approx(0.5 + 0.074)
    assert fixture.engine.adapter_loads == 1


def test_calls_wait_while_all_that_is_loaded_is_needed(fixture: Fixture, make_call: MakeCall) -> None:
    """Two adapters are loaded at most, and the third waits for an end."""
    requests = [
        fixture.engine.submit(make_call(64, 60, stream=number, adapter=name, kind="lora"))
        for number, name in enumerate("abc")
    ]
    fixture.queue.run()
    first_ended_s = min(requests[0].finished_s, requests[1].finished_s)
    assert requests[2].first_token_s == pytest.approx(first_ended_s + 0.5 + 0.074, abs=0.03)
    assert fixture.engine.adapter_loads == 3
    assert set(fixture.engine.resident) == {"b", "c"}


def test_an_engine_that_is_killed_amid_a_load_loads_nothing(fixture: Fixture, make_call: MakeCall) -> None:
    request = fixture.engine.submit(make_call(64, 5, adapter="a", kind="lora"))
    assert fixture.engine.kill() == [request]
    fixture.queue.run()
    assert (fixture.steps, fixture.engine.adapter_loads) == ([], 0)
