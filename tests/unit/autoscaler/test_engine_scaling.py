"""Serve's loop beside the thread that decides: nothing that fails in one stops the other."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.redis_deployments import free_port
from support.waiting import wait_until

from aloraserve.scaling.base import FleetReading, Reason, ScalingDecision, ScalingRules
from aloraserve.scaling.board import ScalingRecord
from aloraserve.settings import Settings
from aloraserve_services.autoscaler import engine_scaling, engines, shown_metrics
from aloraserve_services.autoscaler.departures import Departures
from aloraserve_services.autoscaler.engine_scaling import EngineScaling, begin
from aloraserve_services.autoscaler.engines import EnginePolicy
from aloraserve_services.autoscaler.serve_view import REQUESTS, ServeView, serve_view

WITHIN_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, "a step of a thread", WITHIN_S, every_s=0.01)


def scraped(port: int) -> str:
    """Return what Prometheus reads there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WITHIN_S) as answer:
        return str(answer.read().decode())


class Context(SimpleNamespace):
    """Serve's context of a policy, with what the policy reads of it."""

    def __init__(self, *running: str, target: int = 1, settings: Any = None, **values: Any) -> None:
        state = SimpleNamespace(_deployment_info=SimpleNamespace(replica_config=SimpleNamespace(init_args=(settings,))))
        super().__init__(
            deployment_id="engines",
            running_replicas=[SimpleNamespace(unique_id=name) for name in running],
            target_num_replicas=target,
            total_num_requests=0,
            aggregated_metrics={},
            _total_num_requests_value=SimpleNamespace(__self__=state),
            **values,
        )


class Scripted:
    """Decides what the test says, or fails."""

    def __init__(self) -> None:
        self.views: list[ServeView] = []
        self.next: int | Exception = 3
        self.opened = self.closed = 0
        self.waits: threading.Event | None = None

    def open(self, scaling: EngineScaling) -> tuple[Any, Callable[[], Awaitable[None]]]:
        self.opened += 1

        async def close() -> None:
            self.closed += 1

        return self, close

    async def decide(self, view: ServeView) -> int:
        self.views.append(view)
        if self.waits is not None:
            self.waits.wait(WITHIN_S)
        if isinstance(self.next, Exception):
            raise self.next
        return self.next


@pytest.fixture
def decider() -> Scripted:
    return Scripted()


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_scaling, "choose_for", lambda deployment_id, ask: None)
    monkeypatch.setattr(engine_scaling, "DECIDE_EVERY_S", 0.01)
    monkeypatch.setattr(engine_scaling, "RESTART_S", 0.01)
    monkeypatch.setattr(engine_scaling, "fleet_application", lambda name: f"session.{name}")
    monkeypatch.setattr(engine_scaling, "_running", {})
    monkeypatch.setattr(engine_scaling, "_shown", {})


@pytest.fixture
def scaling(decider: Scripted) -> Iterator[EngineScaling]:
    made = EngineScaling(None, "engines", ScalingRules(), decider.open)
    made.start()
    yield made
    made.stop()


def test_what_there_is_stays_until_something_is_decided(scaling: EngineScaling, decider: Scripted) -> None:
    assert scaling.target(Context("a", target=7)) == 7
    until(lambda: scaling.target(Context("a", target=7)) == 3)
    assert list(decider.views[0].running) == ["a"]


def test_serve_s_loop_never_waits_for_a_decision(scaling: EngineScaling, decider: Scripted) -> None:
    decider.waits = threading.Event()
    scaling.target(Context("a"))
    until(lambda: bool(decider.views))
    started = time.monotonic()
    for _ in range(100):
        assert scaling.target(Context("a", target=2)) == 2
    assert time.monotonic() - started < 5, "the decision waits for ever"
    decider.waits.set()


def test_a_decision_that_fails_leaves_the_target_and_is_made_again(scaling: EngineScaling, decider: Scripted) -> None:
    until(lambda: scaling.target(Context("a")) == 3)
    decider.next = RuntimeError("odd")
    until(lambda: decider.opened > 2)
    assert scaling.target(Context("a")) == 3
    decider.next = 4
    until(lambda: scaling.target(Context("a")) == 4)
    assert decider.closed >= decider.opened - 1, "with new clients each time"


def test_a_decision_that_nothing_renews_does_not_stand_for_ever(
    scaling: EngineScaling, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: scaling.target(Context("a")) == 3)
    scaling.stop()
    monkeypatch.setattr(engine_scaling, "STOOD_S", 0.0)
    until(lambda: scaling.target(Context("a", target=6)) == 6)


def test_nothing_is_decided_while_serve_does_not_ask(
    scaling: EngineScaling, decider: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_scaling, "LOOKED_S", -1.0)
    scaling.target(Context("a"))
    time.sleep(0.1)
    assert decider.views == []


def test_replicas_report_the_requests_that_serve_does_not_see(scaling: EngineScaling, decider: Scripted) -> None:
    context = Context("a", "b")
    context.aggregated_metrics = {REQUESTS: {"a": 3.0, "b": 2.0}}
    context.total_num_requests = 1
    scaling.target(context)
    until(lambda: bool(decider.views))
    assert decider.views[0].ongoing == 6


def test_counts_that_cannot_be_read_are_unknown(scaling: EngineScaling, decider: Scripted) -> None:
    context = Context("a")
    context.aggregated_metrics = 5
    scaling.target(context)
    until(lambda: bool(decider.views))
    assert decider.views[0].ongoing is None


def test_a_policy_with_other_settings_ends_the_one_before(monkeypatch: pytest.MonkeyPatch, decider: Scripted) -> None:
    monkeypatch.setattr(engine_scaling, "_open_decider", decider.open)
    first, second = begin(Context("a"), {}), begin(Context("a"), {"max_replicas": 9})
    until(lambda: not first._thread.is_alive())
    assert second._thread.is_alive()
    assert second.rules.max_replicas == 9
    second.stop()


def test_the_settings_are_those_of_the_replicas() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1", autoscaling=True, metrics=False)  # type: ignore[arg-type]
    scaling = begin(Context("a", settings=settings), {})
    assert scaling.settings is settings
    scaling.stop()


@pytest.mark.parametrize("fault", ["no attribute", "begin", "target"])
def test_a_policy_never_raises(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EnginePolicy({})
    failed = threading.Event()

    def fail(*arguments: Any) -> Any:
        failed.set()
        raise RuntimeError("odd")

    context = Context("a", target=5)
    if fault == "begin":
        monkeypatch.setattr(engine_scaling, "begin", fail)
    elif fault == "target":
        monkeypatch.setattr(engine_scaling, "begin", lambda *_: SimpleNamespace(target=fail, is_over=False))
    else:
        del context.running_replicas
    assert [policy(context) for _ in range(3)] == [(5, {})] * 3
    if fault != "no attribute":
        until(lambda: policy(context) == (5, {}) and failed.is_set())
    del context.target_num_replicas
    assert policy(context) == (5, {}), "what was wanted last"


def test_serve_s_loop_does_no_i_o_at_the_first_tick_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading settings, importing and opening addresses take a while; it is done once, and beside the loop."""
    policy = EnginePolicy({})
    may_begin, threads = threading.Event(), []

    def slow(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        may_begin.wait(WITHIN_S)
        return SimpleNamespace(target=lambda context: 8, is_over=False)

    monkeypatch.setattr(engine_scaling, "begin", slow)
    context = Context("a", target=5)
    assert [policy(context)[0] for _ in range(3)] == [5, 5, 5]
    until(lambda: bool(threads))
    may_begin.set()
    until(lambda: policy(context)[0] == 8)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_a_beginning_that_fails_is_not_tried_at_each_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = EnginePolicy({})
    tried: list[int] = []

    def fail(*arguments: Any) -> Any:
        tried.append(1)
        raise OSError("no address")

    monkeypatch.setattr(engine_scaling, "begin", fail)
    policy(Context("a"))
    until(lambda: not policy._starter.is_alive())  # type: ignore[union-attr]
    for _ in range(20):
        policy(Context("a"))
    assert tried == [1]


def test_scaling_that_serve_asks_no_more_ends_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, decider: Scripted
) -> None:
    """Autoscaling was turned off, or the application deleted."""
    let_go: list[Any] = []
    monkeypatch.setattr(engine_scaling, "_open_decider", decider.open)
    monkeypatch.setattr(engine_scaling, "cease_for", lambda deployment_id, ask: let_go.append(deployment_id))
    scaling = begin(Context("a"), {})
    until(lambda: scaling.target(Context("a")) == 3)
    monkeypatch.setattr(engine_scaling, "ENDS_S", 0.0)
    until(lambda: not scaling._thread.is_alive())
    assert (scaling.is_over, engine_scaling._running, let_go) == (True, {}, ["engines"])
    assert engine_scaling._shown == {}
    assert decider.closed == 1


def test_metrics_are_shown_until_the_scaling_ends_and_their_port_is_free_then(
    monkeypatch: pytest.MonkeyPatch, decider: Scripted
) -> None:
    monkeypatch.setattr(engine_scaling, "_open_decider", decider.open)
    monkeypatch.setattr(engine_scaling, "cease_for", lambda deployment_id, ask: None)
    monkeypatch.setattr(shown_metrics, "node_ip", lambda: "127.0.0.1")
    port = free_port()
    settings = Settings(redis_url="redis://127.0.0.1:1", metrics_host="127.0.0.1", metrics_port=port)  # type: ignore[arg-type]
    scaling = begin(Context("a", settings=settings), {})
    scaling.metrics.show(ScalingRecord(1.0, ScalingDecision(8, Reason.TTFT, 8), 2))
    assert 'aloraserve_scaling_replicas{state="target"} 8.0' in scraped(port)
    other_port = free_port()
    other = settings.model_copy(update={"metrics_port": other_port})
    later = begin(Context("a", settings=other), {})
    assert 'aloraserve_scaling_replicas{state="target"} 8.0' in scraped(other_port), "they outlive changes of settings"
    with pytest.raises(OSError, match="refused"):
        scraped(port)
    monkeypatch.setattr(engine_scaling, "ENDS_S", 0.0)
    until(lambda: not later.is_running)
    with pytest.raises(OSError, match="refused"):
        scraped(other_port)


def test_what_was_learned_of_the_load_outlives_a_change_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each change would be a start: no rates, and a start-up of a minute assumed, for minutes."""
    first = EngineScaling(None, "engines", ScalingRules(max_replicas=4))
    scaler = first.open_scaler()
    second = EngineScaling(None, "engines", ScalingRules(max_replicas=9), earlier=first)
    third = EngineScaling(None, "engines", ScalingRules(max_replicas=7), earlier=second)
    assert third.open_scaler() is scaler
    assert scaler.decide(FleetReading(1.0, 9)).target == 7
    failed = EngineScaling(None, "engines", ScalingRules())
    assert failed.open_scaler() is not failed.open_scaler(), "what failed begins again without what it failed at"


def test_a_policy_that_is_asked_again_after_long_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[SimpleNamespace] = []

    def made(*arguments: Any) -> SimpleNamespace:
        begun.append(SimpleNamespace(target=lambda context: 8 + len(begun), is_over=False))
        return begun[-1]

    monkeypatch.setattr(engine_scaling, "begin", made)
    monkeypatch.setattr(engines, "BEGIN_EVERY_S", 0.0)
    policy = EnginePolicy({})
    until(lambda: policy(Context("a", target=5))[0] == 9)
    begun[0].is_over = True
    assert policy(Context("a", target=5))[0] == 5
    until(lambda: policy(Context("a", target=5))[0] == 10)


def test_those_that_leave_go_on_leaving_when_the_settings_change(decider: Scripted) -> None:
    """The one before is waited for: it would mark on, and what it chose counts to its end."""
    decider.waits = threading.Event()
    first = EngineScaling(None, "engines", ScalingRules(), decider.open)
    first.departures = Departures([], chosen=("a",))
    first.start()
    first.target(Context("a", "b"))
    until(lambda: bool(decider.views))
    later = Scripted()
    second = EngineScaling(None, "engines", ScalingRules(), later.open, earlier=first)
    second.start()
    until(lambda: first.is_over)
    first.departures.chosen = ("b",)
    second.target(Context("a", "b"))
    assert second._leaving().chosen == ("b",)
    time.sleep(0.1)
    assert (later.opened, decider.closed) == (0, 0), "it waits"
    decider.waits.set()
    until(lambda: later.opened == 1)
    assert decider.closed == 1
    second.stop()


def test_a_choice_of_long_ago_stops_nobody(scaling: EngineScaling, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling.departures = Departures([], chosen=("a",))
    scaling.target(Context("a", "b"))
    assert scaling._leaving().chosen == ("a",)
    monkeypatch.setattr(engine_scaling, "STOOD_S", -1.0)
    assert scaling._leaving().chosen == ()


def test_serve_s_bounds_of_the_moment_are_seen() -> None:
    context = Context("a", capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=4)
    view = serve_view(context, None)
    assert (view.least, view.most) == (1, 4)


def test_where_the_settings_cannot_be_had_serve_s_counts_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Ray may keep them elsewhere; the fleet is scaled all the same."""
    policy = EnginePolicy({"max_requests": 10, "max_replicas": 9, "scale_up_cooldown_s": 0.0})
    context = Context("a", target=1)
    context.aggregated_metrics = {REQUESTS: {"a": 50.0}}
    until(lambda: policy(context)[0] == 8)
    engine_scaling._running["engines"].stop()
