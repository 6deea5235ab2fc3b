"""``aloraserve``: the commands, one file each. Exit codes are in :mod:`aloraserve_services.cli.console`."""

from __future__ import annotations

from typing import Annotated

import typer

from aloraserve import __version__
from aloraserve_services.cli.adapters import app as adapters
from aloraserve_services.cli.calibrate import calibrate
from aloraserve_services.cli.console import clearly
from aloraserve_services.cli.demo import demo
from aloraserve_services.cli.diagnose import diagnose
from aloraserve_services.cli.doctor import doctor
from aloraserve_services.cli.down import down
from aloraserve_services.cli.engine import engine
from aloraserve_services.cli.evaluate import evaluate
from aloraserve_services.cli.explain import explain
from aloraserve_services.cli.export import export
from aloraserve_services.cli.intrinsics import app as intrinsics
from aloraserve_services.cli.keys import app as keys
from aloraserve_services.cli.logs import logs
from aloraserve_services.cli.rank_study import rank_study
from aloraserve_services.cli.simulate import simulate
from aloraserve_services.cli.status import status
from aloraserve_services.cli.tenants import app as tenants
from aloraserve_services.cli.train import train
from aloraserve_services.cli.up import up

app = typer.Typer(
    name="aloraserve",
    help="Serve one model with many LoRA and Activated LoRA adapters, and never prefill a conversation twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aloraserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


for command in (
    demo,
    up,
    status,
    logs,
    explain,
    diagnose,
    doctor,
    down,
    engine,
    clearly(simulate),
    calibrate,
    evaluate,
    export,
    rank_study,
    train,
):
    app.command()(command)
for group in (adapters, intrinsics, keys, tenants):
    app.add_typer(group)


if __name__ == "__main__":
    app()
