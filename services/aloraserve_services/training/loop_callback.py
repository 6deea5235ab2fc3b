"""Seeds, checkpoints, progress, early and requested ends, around a loop's steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback

from aloraserve_services.training.batch_order import BatchOrder
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.stopping import StopRequest


class LoopCallback(TrainerCallback):
    """Steers a loop.

    Args:
        order: of the batches.
        progress: that is told of.
        stop: that is looked at after each step.
        seed: of the training.
        patience: validations without a better one that end it; None for no end.
        epoch_steps: steps of an epoch.
        checkpoint_s: seconds between checkpoints, beside those after each validation.
    """

    def __init__(
        self,
        order: BatchOrder,
        progress: TrainingProgress,
        stop: StopRequest,
        *,
        seed: int,
        patience: int | None,
        epoch_steps: int,
        checkpoint_s: float,
    ) -> None:
        self._order = order
        self._progress = progress
        self._stop = stop
        self._seed = seed
        self._patience = patience
        self._epoch_steps = epoch_steps
        self._checkpoint_s = checkpoint_s
        self._saved_at = time.monotonic()
        self._loss: float | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the epoch's order."""
        self._order.set_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seed the step's dropout by its number: a resumed training has the same."""
        torch.manual_seed(self._seed * 1_000_003 + state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the loss for the progress."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report; save if it is time; end if that is asked for."""
        self._progress.advance("steps", state.global_step, state.max_steps, self._loss)
        if self._stop:
            control.should_training_stop = True
        # At the end of an epoch the validation comes first: a checkpoint before it would resume without it.
        if not self._ends_epoch(state):
            control.should_save = bool(self._stop) or time.monotonic() - self._saved_at >= self._checkpoint_s

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and validate, unless the epoch was cut short: its checkpoint is written then."""
        control.should_save = control.should_evaluate = self._ends_epoch(state)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the time to the next checkpoint from here."""
        self._saved_at = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Report; end if nothing has got better for long."""
        shown = ", ".join(f"{name} {metrics[f'eval_{name}']:.4f}" for name in ("loss", "accuracy"))
        self._progress.note(f"step {state.global_step} of {state.max_steps}: validation {shown}")
        if self._patience is not None and validations_since_best(state, args) >= self._patience:
            self._progress.note(f"ended early: validations without a better one: {self._patience}")
            control.should_training_stop = True

    def _ends_epoch(self, state: Any) -> bool:
        return state.global_step % self._epoch_steps == 0 or state.global_step >= state.max_steps


def validations_since_best(state: Any, args: Any) -> int:
    """Return how many validations came after the best one."""
    name, sign = args.metric_for_best_model, 1 if args.greater_is_better else -1
    values = [sign * entry[name] for entry in state.log_history if name in entry]
    return len(values) - 1 - values.index(max(values)) if values else 0
