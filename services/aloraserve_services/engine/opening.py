"""The engine that a plan asks for. Only what it needs is imported: a simulated one needs neither vLLM nor torch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aloraserve.errors import StartError
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.plan import FleetPlan, require_engine

if TYPE_CHECKING:
    from aloraserve_services.engine.simulated.engine import SimulatedEngine
    from aloraserve_services.engine.simulated.events import SimulatedEvents


def open_vllm(plan: FleetPlan) -> EngineParts:
    """Start vLLM's engine on the running event loop.

    Raises:
        StartError: vLLM is not installed here.
    """
    require_engine(plan.settings)
    from aloraserve_services.engine.vllm.engine import VllmEngine, prepare_environment
    from aloraserve_services.engine.vllm.event_stream import EventStream

    prepare_environment(plan)
    events = EventStream(Path(tempfile.mkdtemp(prefix="aloraserve-kv-")))
    return EngineParts(VllmEngine(plan, events.endpoint, events.replay_endpoint), events)


def open_simulated(plan: FleetPlan) -> tuple[SimulatedEngine, SimulatedEvents]:
    """Start a simulated engine on the running event loop.

    Raises:
        StartError: the plan is for vLLM's engine.
    """
    from aloraserve_services.engine.simulated.answer_words import AnswerWords
    from aloraserve_services.engine.simulated.engine import SimulatedEngine
    from aloraserve_services.engine.simulated.events import SimulatedEvents
    from aloraserve_services.engine.simulated.structured_answers import StructuredAnswers

    if plan.calibration is None:
        raise StartError("the plan has no calibration; a simulated engine needs one")
    events = SimulatedEvents()
    words = AnswerWords.read(plan.model_path)
    engine = SimulatedEngine(
        plan.calibration,
        plan.keyspace,
        words,
        events,
        structures=StructuredAnswers(plan.model_path / "tokenizer.json", words),
        policy=plan.scheduling.policy,
        stream_tokens=plan.settings.stream_interval,
    )
    return engine, events
