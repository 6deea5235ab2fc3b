"""How many conversations start, over time: a day, bursts, a crowd that comes at once; drawn by a seed."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from aloraserve.errors import SettingsError
from aloraserve.simulation.trace import GeneratedTrace, TraceRow

Shape = Literal["diurnal", "bursty", "flash-crowd"]
SHAPES = get_args(Shape)
Intensity = Callable[[float], float]
"""The share of the highest rate at which conversations start, by the time."""
NIGHT, BURST_FLOOR, CROWD_FLOOR = 0.12, 0.3, 0.25
"""The lowest share of each shape."""
BURST_S, QUIET_S, BURST_RISE_S = (40.0, 140.0), (60.0, 240.0), 15.0
CROWD_START, CROWD_END, CROWD_RISE_S, CROWD_FALL = 0.35, 0.6, 20.0, 0.1
"""When a crowd comes and goes, how fast, and the share of the time in which 1 - 1/e of it has left."""
SHAPE_STEPS = 4096
"""In which a shape is summed up."""


def shaped_rows(shape: str, seed: int, *, duration_s: float, peak_per_s: float) -> list[TraceRow]:
    """Return the turns of conversations that start as a shape says.

    Args:
        shape: one of :data:`SHAPES`.
        seed: of everything that is drawn.
        duration_s: conversations start until then.
        peak_per_s: how many start per second at the highest.

    Raises:
        SettingsError: the shape is unknown, or a number makes no sense.
    """
    if shape not in SHAPES:
        raise SettingsError(f"shape is {shape!r}; {', '.join(SHAPES)} are accepted")
    if not 10 <= duration_s <= 86_400 * 7:
        raise SettingsError(f"duration_s is {duration_s}; 10 to 604800 are accepted")
    if not 0 < peak_per_s <= 1000:
        raise SettingsError(f"peak_per_s is {peak_per_s}; more than 0, at most 1000, is accepted")
    chooser = random.Random(f"{shape} {seed}")  # noqa: S311
    intensity = _intensity(shape, duration_s, chooser)
    return GeneratedTrace().rows_from(_starts(intensity, duration_s, peak_per_s, chooser), seed)


def reshaped_rows(
    rows: Sequence[TraceRow], shape: str, seed: int, *, duration_s: float | None = None
) -> list[TraceRow]:
    """Return a trace's rows at other times: in their order, as often per second as a shape says.

    Args:
        rows: of the trace, sorted by time.
        shape: one of :data:`SHAPES`.
        seed: of what is drawn of the shape.
        duration_s: all of them come within; None: as long as in the trace.

    Raises:
        SettingsError: the shape is unknown, or the trace has no length.
    """
    if shape not in SHAPES:
        raise SettingsError(f"shape is {shape!r}; {', '.join(SHAPES)} are accepted")
    begin_s, span_s = rows[0].arrival_s, rows[-1].arrival_s - rows[0].arrival_s
    if not span_s > 0:
        raise SettingsError(f"the trace's rows come within {span_s:g} s; more is needed for a shape")
    total_s = duration_s or span_s
    intensity = _intensity(shape, total_s, random.Random(f"{shape} {seed}"))  # noqa: S311
    step_s = total_s / SHAPE_STEPS
    sums = list(itertools.accumulate((intensity((step + 0.5) * step_s) for step in range(SHAPE_STEPS)), initial=0.0))

    def time_s(share: float) -> float:
        step = min(max(bisect.bisect_right(sums, share * sums[-1]) - 1, 0), SHAPE_STEPS - 1)
        return (step + (share * sums[-1] - sums[step]) / (sums[step + 1] - sums[step])) * step_s

    return [replace(row, arrival_s=time_s((row.arrival_s - begin_s) / span_s)) for row in rows]


def _starts(intensity: Intensity, duration_s: float, peak_per_s: float, chooser: random.Random) -> Iterator[float]:
    """Yield the times of a Poisson process whose rate changes (thinning: Lewis and Shedler, 1979)."""
    time_s = chooser.expovariate(peak_per_s)
    while time_s < duration_s:
        if chooser.random() < intensity(time_s):
            yield time_s
        time_s += chooser.expovariate(peak_per_s)


def _intensity(shape: str, duration_s: float, chooser: random.Random) -> Intensity:
    if shape == "diurnal":
        return lambda time_s: NIGHT + (1 - NIGHT) * math.sin(math.pi * time_s / duration_s) ** 2
    if shape == "bursty":
        return _bursts(duration_s, chooser)
    return _crowd(duration_s)


def _bursts(duration_s: float, chooser: random.Random) -> Intensity:
    bursts: list[tuple[float, float, float]] = []
    time_s = chooser.uniform(*QUIET_S)
    while time_s < duration_s:
        end_s = time_s + chooser.uniform(*BURST_S)
        bursts.append((time_s, end_s, chooser.uniform(0.5, 1.0)))
        time_s = end_s + chooser.uniform(*QUIET_S)

    def intensity(at_s: float) -> float:
        heights = [_height(at_s, *burst) for burst in bursts]
        return max([BURST_FLOOR, *heights])

    return intensity


def _height(at_s: float, start_s: float, end_s: float, height: float) -> float:
    return height * min(max((at_s - start_s) / BURST_RISE_S, 0.0), 1.0) if at_s < end_s else 0.0


def _crowd(duration_s: float) -> Intensity:
    start_s, end_s = CROWD_START * duration_s, CROWD_END * duration_s

    def intensity(at_s: float) -> float:
        risen = min(max((at_s - start_s) / CROWD_RISE_S, 0.0), 1.0)
        left = math.exp(-(at_s - end_s) / (CROWD_FALL * duration_s)) if at_s > end_s else 1.0
        return CROWD_FLOOR + (1 - CROWD_FLOOR) * risen * left

    return intensity
