"""vLLM's statistics of each step, as they reach the replica's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aloraserve.engine_model.step_stats import StepStats
from aloraserve_services.engine.vllm.reporting_scheduler import attached_step


class StepObserver:
    """Keeps the engine's last word on its KV cache and hands on its steps; vLLM calls :meth:`record` after each.

    Attributes:
        kv_usage: the share of KV blocks in use, from 0 to 1.
        observe: called with each step.
    """

    def __init__(self) -> None:
        self.kv_usage = 0.0
        self.observe: Callable[[StepStats], None] = lambda step: None

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
        """Take in the statistics of a step."""
        if scheduler_stats is None:
            return
        self.kv_usage = float(scheduler_stats.kv_cache_usage)
        if (step := attached_step(scheduler_stats)) is not None:
            self.observe(step)

    def log_engine_initialized(self) -> None:
        """Do nothing; part of vLLM's ``StatLoggerBase``."""

    def log(self) -> None:
        """Do nothing; part of vLLM's ``StatLoggerBase``."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Do nothing; part of vLLM's ``StatLoggerBase``."""
