"""Plays phases with locust in this process: its users, its events and statistics."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from locust import events
from locust.env import Environment

from loadtests.pipelines import SHARED
from loadtests.plan import LoadPlan, Phase
from loadtests.samples import Sample, Samples
from loadtests.transport import Transport
from loadtests.users import USERS
from loadtests.warm_up import warm_up

Progress = Callable[[str], None]


def prepare(
    environment: Environment,
    plan: LoadPlan,
    phase: Phase,
    transport: Transport,
    samples: Samples,
    finish: Callable[[], object] | None = None,
) -> None:
    """Give an environment what its users need.

    Args:
        environment: locust's.
        plan: of the load test.
        phase: to play, with one arm unless it is a "sync" one.
        transport: how to call.
        samples: where samples go.
        finish: called once all is played; by default the environment's runner quits.
    """
    found: Any = environment

    def record(sample: Sample) -> None:
        samples.add(sample)
        if sample.step != "whole":
            _report(environment, sample)

    numbers = itertools.count()
    found.transport = transport
    found.phase_context = warm_up(plan, phase, transport, record)
    found.tasks_left = phase.count if phase.mode == "closed" else 1
    found.finish = finish or (lambda: found.runner.quit())

    def next_conversation() -> int | None:
        number = next(numbers)
        return number if number < phase.count else None

    found.next_conversation = next_conversation


def _report(environment: Environment, sample: Sample) -> None:
    """Make a call one of locust's requests, and its time to the first token another."""
    name = f"{sample.phase} {sample.pipeline} {sample.step} {sample.state}"
    error = RuntimeError(sample.error) if sample.error else None
    common: dict[str, Any] = {"name": name, "response_length": 0, "context": {}, "exception": error}
    fire = environment.events.request.fire
    fire(request_type=sample.arm, response_time=sample.e2e_s * 1000, **common)
    if not sample.error:
        fire(request_type=f"{sample.arm} TTFT", response_time=sample.ttft_s * 1000, **common)


def play_phase(plan: LoadPlan, phase: Phase, transport: Transport, samples: Samples, progress: Progress) -> None:
    """Play a phase to its end; arms that would disturb each other one after the other."""
    parts = [phase] if phase.mode == "sync" else [replace(phase, arms=(arm,)) for arm in phase.arms]
    for part in parts:
        environment = Environment(user_classes=[USERS[part.mode]], events=events, reset_stats=False)
        prepare(environment, plan, part, transport, samples)
        runner = environment.create_local_runner()
        began, before = time.perf_counter(), len(samples)
        runner.start(part.users if part.mode == "closed" else 1, spawn_rate=100)
        watch = _Watch(part, samples, before, progress)
        try:
            while not runner.greenlet.join(timeout=2):
                watch.report()
        except KeyboardInterrupt:
            # What is under way would be noted as failed once its platform stops.
            samples.close()
            runner.quit()
            raise
        progress(
            f"{part.name} ({', '.join(part.arms)}): {len(samples) - before} samples in "
            f"{time.perf_counter() - began:.0f} s, {sum(1 for sample in samples if sample.error)} failed so far"
        )


class _Watch:
    """Reports every few seconds how far a phase is."""

    def __init__(self, phase: Phase, samples: Samples, before: int, progress: Progress) -> None:
        self._phase, self._samples, self._before, self._progress = phase, samples, before, progress
        self._reported_at = time.perf_counter()

    def report(self) -> None:
        now = time.perf_counter()
        if now - self._reported_at < 15:
            return
        self._reported_at = now
        done = len(self._samples) - self._before
        if self._phase.mode == "sync":
            whole = sum(sample.step == "whole" for sample in itertools.islice(self._samples, self._before, None))
            variants = sum(1 if name in SHARED else len(self._phase.arms) for name in self._phase.pipelines)
            count = self._phase.count * variants * len(self._phase.lengths)
            self._progress(f"{self._phase.name}: {whole} of {count} pipelines")
        else:
            self._progress(f"{self._phase.name} ({self._phase.arms[0]}): {done} calls")
