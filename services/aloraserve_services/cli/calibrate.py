"""``aloraserve calibrate``: times one engine, and the way to it, for the simulator and the simulated engine."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from aloraserve_services.cli.console import Steps, out, report_written
from aloraserve_services.cli.options import ChosenSettings, PromptSeed, takes_settings


@takes_settings("model", "port", "state_dir", "dtype")
def calibrate(
    chosen: ChosenSettings,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("calibration.json"),
    name: Annotated[str, typer.Option(help="The calibration's name.")] = "measured",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Times per length; medians count.")] = 3,
    seed: PromptSeed = 0,
) -> None:
    """Time an engine of this machine for `simulate`: prefill, decoding, adapters, and the way through HTTP."""
    from aloraserve_services.cli.client import StreamingClient
    from aloraserve_services.cli.engine_timer import engine_figures
    from aloraserve_services.cli.measured_calibration import calibration, overhead_s, write_calibration
    from aloraserve_services.cli.own_platform import own_platform, own_settings
    from aloraserve_services.models.untrained import twin_adapters
    from aloraserve_services.plan import make_plan, require_engine

    settings = own_settings(chosen, output, replicas=1)
    require_engine(settings)
    steps = Steps()
    plan = make_plan(settings, adapters_dir=functools.partial(twin_adapters, settings.state_dir), progress=steps)
    found = calibration(plan, name, engine_figures(plan, rounds=rounds, seed=seed, progress=steps))
    with own_platform(settings, steps) as platform, StreamingClient(platform.url, platform.headers) as client:
        overhead = overhead_s(platform.plan, client, found.prefill.model.seconds, seed)
    found = found.model_copy(update={"overhead_s": overhead})
    write_calibration(output, found)
    out.print_json(found.model_dump_json())
    report_written(output)
