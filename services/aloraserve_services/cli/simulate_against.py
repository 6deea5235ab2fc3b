"""``aloraserve simulate --against``: a demo's calls beside what the model of engines says of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from aloraserve.engine_model.calibration import Calibration
from aloraserve.simulation.demo_replay import DemoReplay, median_error, read_calls
from aloraserve.simulation.router_names import router_factory


def show_against(console: Console, path: Path, times: Calibration, policy: str, output: Path | None) -> None:
    """Print a demo's TTFTs beside the model's, and the median error."""
    calls, replicas = read_calls(path)
    factory = router_factory(policy)
    replayed = DemoReplay(calls, times, replicas, factory).run()
    table = Table(title=f"{path.name}, {replicas} replicas, {policy}, {times.name}", title_justify="left", box=SIMPLE)
    for head in ("conversation", "turn", "adapter", "prompt", "cached", "estimated", "TTFT", "estimated", "error"):
        table.add_column(head, justify="left" if head in ("conversation", "adapter") else "right", no_wrap=True)
    for call in replayed:
        real = call.real
        table.add_row(
            real.conversation,
            str(real.turn),
            real.adapter,
            f"{real.prompt_tokens:,}",
            f"{real.cached_tokens:,}",
            f"{call.cached_tokens:,}",
            f"{real.ttft_s * 1000:,.0f} ms",
            f"{call.ttft_s * 1000:,.0f} ms",
            f"{call.relative_error:.0%}",
        )
    console.print(table)
    error = median_error(replayed)
    console.print(f"median error {error:.1%} over {len(replayed)} calls")
    if output is not None:
        rows = [asdict(call) | {"relative_error": call.relative_error} for call in replayed]
        output.write_text(json.dumps({"median_relative_error": error, "calls": rows}, indent=2))
        console.print(f"written to {output}")
