"""``make bench-adapters``: what registering, switching and composing adapters takes, as those who wait for it see it.

Each part runs alone with ``--part``. Times are a client's, and nothing is subtracted from them; "beyond the copy" is
the difference to the line above it, of the same round. Random are the prompts' token ids and words, what is resolved
and listed, and which stream sends which prompt, all from the seed. Adapters' weights are random too.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from aloraserve_services.cli.console import Steps
from aloraserve_services.cli.options import ChosenSettings, JsonFile, PromptSeed, takes_settings
from aloraserve_services.models.hardware import describe_machine
from benchmarks.adapter_parts import AdapterParts, Part, Sizes
from benchmarks.harness.command import run_command
from benchmarks.harness.report import figures_json, write_json


@takes_settings(
    *("model", "engine", "calibration", "replicas", "gateways", "state_dir", "dtype", "port"),
    engine="simulated",
    replicas=4,
    gateways=2,
)
def bench_adapters(
    chosen: ChosenSettings,
    part: Annotated[list[Part] | None, typer.Option(help="Repeat it for several; default: all.")] = None,
    entries: Annotated[int, typer.Option(min=10, max=20_000, help="Adapters in the catalog.")] = 10_000,
    megabytes: Annotated[float, typer.Option(min=1.3, max=70, help="Of an adapter that is registered.")] = 50.0,
    streams: Annotated[int, typer.Option(min=1, max=256, help="At once while the alias is switched.")] = 16,
    switches: Annotated[int, typer.Option(min=1, max=1000, help="Of the alias.")] = 8,
    tokens: Annotated[int, typer.Option(min=64, max=7000, help="Of the intrinsics' conversations.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Turns of each arm; medians count.")] = 3,
    seed: PromptSeed = 0,
    json: JsonFile = None,
) -> None:
    """Measure what adapters take; engine, replicas and gateways are those of versions and switch."""
    from aloraserve_services.cli.own_platform import own_settings

    settings = own_settings(chosen, json)
    sizes = Sizes(entries, megabytes, streams, switches, tokens)
    parts = AdapterParts(settings, sizes, rounds, seed, Steps())
    parts.run(set(part or [Part.ALL]))
    content = {"machine": describe_machine(), "engine": settings.engine, "rounds": rounds, "seed": seed}
    content |= {"sizes": asdict(sizes), "parts": {name: figures_json(found) for name, found in parts.figures.items()}}
    write_json(json, content | {"intrinsics": [asdict(sample) for sample in parts.samples]})


if __name__ == "__main__":
    run_command(bench_adapters)
