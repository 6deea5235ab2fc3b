"""Calibrations of engines that are slower or faster than a measured one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aloraserve.engine_model.calibration import Calibration, load


def slowed(times: Calibration, slowdown: float) -> Calibration:
    """Return the calibration of an engine that takes ``slowdown`` times as long for everything."""
    prefill = {name: value * slowdown for name, value in times.prefill.model_dump().items()}
    decode = {name: value * slowdown for name, value in times.decode.model_dump().items()}
    adapters = times.adapters.model_dump() | {"load_s": times.adapters.load_s * slowdown}
    return Calibration(**times.model_dump() | {"prefill": prefill, "decode": decode, "adapters": adapters})


def instant(times: Calibration, *, token_s: float) -> Calibration:
    """Return the calibration of an engine that calls need not wait for: what they wait for is the way to it.

    Args:
        times: of the engine that it is otherwise.
        token_s: from one token of an answer to the next.
    """
    prefill = times.prefill.model_dump() | {"fixed_s": 2e-4, "s_per_token": 1e-6, "s_per_square_token": 0.0}
    decode = {"fixed_s": token_s, "s_per_sequence": 0.0, "s_per_context_token": 0.0}
    return Calibration(**times.model_dump() | {"name": "instant", "prefill": prefill, "decode": decode})


@contextlib.contextmanager
def slowed_file(name: str, slowdown: float) -> Iterator[Path]:
    """Write the slowed calibration called ``name`` to a file for the time of the context; yield its path."""
    with calibration_file(slowed(load(name), slowdown)) as path:
        yield path


@contextlib.contextmanager
def calibration_file(times: Calibration) -> Iterator[Path]:
    """Write a calibration to a file for the time of the context; yield its path."""
    with tempfile.TemporaryDirectory(prefix="aloraserve-bench-") as folder:
        path = Path(folder) / "calibration.json"
        path.write_text(times.model_dump_json(), "utf-8")
        yield path
