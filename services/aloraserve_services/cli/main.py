"""``aloraserve``: the commands, one file each. Exit codes are in :mod:`aloraserve_services.cli.console`."""

from __future__ import annotations

import typer

from aloraserve_services.cli.calibrate import calibrate
from aloraserve_services.cli.console import clearly
from aloraserve_services.cli.demo import demo
from aloraserve_services.cli.down import down
from aloraserve_services.cli.explain import explain
from aloraserve_services.cli.simulate import simulate
from aloraserve_services.cli.status import status
from aloraserve_services.cli.up import up

app = typer.Typer(
    name="aloraserve",
    help="Serve one model with many LoRA and Activated LoRA adapters, and never prefill a conversation twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, up, status, explain, down, clearly(simulate), calibrate):
    app.command()(command)


if __name__ == "__main__":
    app()
