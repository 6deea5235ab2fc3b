"""Checkpoints: the adapter, the optimizer's state and the progress, as safetensors and JSON. No pickles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aloraserve.errors import StartError
from aloraserve_services.training.written_folder import write_folder

STATE_FILE = "trainer_state.json"
"""Named as transformers' Trainer looks for it."""
_ADAPTER_FILE = "adapter.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_SCHEDULE_FILE = "schedule.json"
_PREFIX = "checkpoint-"
_BEST = "best-"


class Checkpoints:
    """Checkpoints of one training; the latest is kept, and the adapter of the best step.

    Args:
        folder: that they are in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def latest(self) -> Path | None:
        """The latest whole checkpoint; None if there is none."""
        return self._newest(_PREFIX)

    @property
    def best(self) -> Path | None:
        """The folder of the best step's adapter; None before the first validation."""
        return self._newest(_BEST)

    def save(self, step: int, adapter: Mapping[str, Any], optimizer: Any, schedule: Any, state: str) -> None:
        """Write a checkpoint, then remove the one before.

        Args:
            step: that has been done.
            adapter: tensors by name.
            optimizer: torch's.
            schedule: torch's, of the learning rate.
            state: of transformers' Trainer, in JSON.

        Raises:
            StartError: it cannot be written; the one before is still there.
        """
        from safetensors.torch import save_file

        tensors = {
            f"{index}.{name}": value
            for index, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }

        def fill(folder: Path) -> None:
            save_file(dict(adapter), folder / _ADAPTER_FILE)
            save_file(tensors, folder / _OPTIMIZER_FILE)
            (folder / _SCHEDULE_FILE).write_text(json.dumps(schedule.state_dict()))
            (folder / STATE_FILE).write_text(state)

        before = self.latest
        self._write(f"{_PREFIX}{step}", f"the checkpoint of step {step}", fill)
        self._remove(before, f"{_PREFIX}{step}")

    def save_best(self, adapter: Mapping[str, Any], step: int) -> None:
        """Write the best step's adapter, then remove the one before.

        Raises:
            StartError: it cannot be written; the one before is still there.
        """
        from safetensors.torch import save_file

        def fill(folder: Path) -> None:
            save_file(dict(adapter), folder / _ADAPTER_FILE, metadata={"step": str(step)})

        before = self.best
        self._write(f"{_BEST}{step}", f"the adapter of step {step}", fill)
        self._remove(before, f"{_BEST}{step}")

    def _newest(self, prefix: str) -> Path | None:
        return max(self._folder.glob(f"{prefix}*"), key=_step, default=None)

    @staticmethod
    def _remove(before: Path | None, name: str) -> None:
        if before is not None and before.name != name:
            shutil.rmtree(before, ignore_errors=True)

    def _write(self, name: str, what: str, fill: Callable[[Path], None]) -> None:
        try:
            write_folder(self._folder / name, fill)
        except Exception as error:
            # safetensors has an error of its own for a full disk.
            if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
                raise
            why = getattr(error, "strerror", None) or str(error)
            last = self.latest
            kept = "there is no earlier one" if last is None else f"that of step {_step(last)} is kept"
            raise StartError(f"{what} cannot be written: {why}; {kept}. Make room, then go on with --resume") from error


def load_adapter(folder: Path) -> dict[str, Any]:
    """Return the adapter's tensors of a checkpoint."""
    from safetensors.torch import load_file

    return dict(load_file(folder / _ADAPTER_FILE))


def load_optimizer(folder: Path, optimizer: Any, schedule: Any) -> None:
    """Give an optimizer and its schedule the state of a checkpoint."""
    from safetensors.torch import load_file

    saved = json.loads((folder / _SCHEDULE_FILE).read_text())
    states: dict[int, dict[str, Any]] = {}
    for key, value in load_file(folder / _OPTIMIZER_FILE).items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, saved["_last_lr"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    schedule.load_state_dict(saved)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
