"""``aloraserve``: the commands, one file each. Exit codes are in :mod:`aloraserve_services.cli.console`."""

from __future__ import annotations

import typer

from aloraserve_services.cli.bench import bench
from aloraserve_services.cli.bench_routing import bench_routing
from aloraserve_services.cli.bench_routing_live import bench_routing_live
from aloraserve_services.cli.calibrate import calibrate
from aloraserve_services.cli.console import clearly
from aloraserve_services.cli.demo import demo
from aloraserve_services.cli.down import down
from aloraserve_services.cli.explain import explain
from aloraserve_services.cli.simulate import simulate
from aloraserve_services.cli.status import status
from aloraserve_services.cli.up import up
from aloraserve_services.cli.verify_savings import verify_savings

app = typer.Typer(
    name="aloraserve",
    help="Serve one model with many LoRA and Activated LoRA adapters, and never prefill a conversation twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    bench,
    bench_routing,
    bench_routing_live,
    verify_savings,
    up,
    status,
    explain,
    down,
    clearly(simulate),
    calibrate,
):
    app.command()(command)


if __name__ == "__main__":
    app()
