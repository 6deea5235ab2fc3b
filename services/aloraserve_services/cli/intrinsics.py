"""``aloraserve intrinsics``: rows of training data for the intrinsics that the project knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from aloraserve.errors import SettingsError
from aloraserve_services.cli.console import clearly, out, report_written
from aloraserve_services.intrinsics.builders import INTRINSICS, Intrinsic, build_rows, write_rows
from aloraserve_services.intrinsics.sampling import AnswerSampler

app = typer.Typer(
    name="intrinsics",
    help="Build training data for the intrinsics that the project knows: rows and a spec for `aloraserve train`.",
    no_args_is_help=True,
)


@app.command("list")
@clearly
def list_intrinsics() -> None:
    """List the intrinsics that rows can be built for."""
    table = Table("intrinsic", "rows to train on", "open data")
    for one in INTRINSICS.values():
        table.add_row(one.name, str(next(iter(one.counts.values()))), "MTRAG-UN (--data)" if one.reads else "")
    out.print(table)


@app.command("build")
@clearly
def build(
    name: Annotated[str, typer.Argument(help="Of the intrinsic: see `aloraserve intrinsics list`.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to write, not there yet.")],
    rows: Annotated[int | None, typer.Option(help="Rows to train on; fewer for validation and test.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal rows.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="File of open data in place of generated: MTRAG-UN's tasks.jsonl.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Folder of the base model that `uncertainty` samples, in place of our samples.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="File to write the samples of --base to, as the package has them.")
    ] = None,
) -> None:
    """Write train.jsonl, validation.jsonl, test.jsonl and the spec of an intrinsic."""
    intrinsic = _intrinsic(name)
    sampler = None if base is None else AnswerSampler(base, seed)
    made = build_rows(intrinsic, seed=seed, train_rows=rows, data=data, sampler=sampler, samples_file=samples)
    write_rows(intrinsic, made, folder)
    out.print(", ".join(f"{len(part_rows)} rows for {part}" for part, part_rows in made.items()))
    report_written(folder)


def _intrinsic(name: str) -> Intrinsic:
    if name not in INTRINSICS:
        raise SettingsError(f"{name!r} is not an intrinsic that rows can be built for; {', '.join(INTRINSICS)} are")
    return INTRINSICS[name]
