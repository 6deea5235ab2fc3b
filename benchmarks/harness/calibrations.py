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


@contextlib.contextmanager
def slowed_file(name: str, slowdown: float) -> Iterator[Path]:
    """Write the slowed calibration called ``name`` to a file for the time of the context; yield its path."""
    with tempfile.TemporaryDirectory(prefix="aloraserve-bench-") as folder:
        path = Path(folder) / "calibration.json"
        path.write_text(slowed(load(name), slowdown).model_dump_json(), "utf-8")
        yield path
