"""A benchmark's module as a command, with the platform's own exit codes."""

from __future__ import annotations

from collections.abc import Callable

import typer


def run_command(command: Callable[..., None]) -> None:
    """Run a benchmark with the arguments of this process, as ``aloraserve`` runs its commands.

    Args:
        command: reads its options from its signature; its first docstring line is its help.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()
