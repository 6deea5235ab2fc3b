"""``aloraserve train``: an adapter from a spec and its rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from aloraserve_services.cli.console import EXIT_INTERRUPTED, err, out, report_written
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.cli.training_progress import TrainingBars

if TYPE_CHECKING:
    from aloraserve_services.training.prepared import PreparedData


@takes_settings("state_dir")
def train(
    chosen: ChosenSettings,
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC", help="YAML file: what to train, on what.")],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; the adapter's name, here, if not given.")
    ] = None,
    kind: Annotated[
        Literal["alora", "lora"] | None, typer.Option(help="`lora` trains the plain LoRA twin from the same data.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was ended.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the folder, and begin again.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check spec and data, train nothing.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: training.epochs=2. Repeatable."),
    ] = None,
) -> None:
    """Train an adapter: an aLoRA, or with --kind lora its plain LoRA twin. Needs the extra `train`."""
    # These bring libraries that other commands do not wait for.
    from aloraserve.training import TrainingSpec
    from aloraserve.training.spec_changes import changed_spec
    from aloraserve_services.training.run import prepare_training
    from aloraserve_services.training.run import train as train_adapter

    spec = TrainingSpec.read(spec_file)
    if kind == "lora" and spec.kind == "alora":
        spec = spec.twin()
    spec = changed_spec(spec, changes or ())
    state_dir = chosen.load().state_dir
    with TrainingBars() as progress:
        if check:
            _show_data(prepare_training(spec, state_dir, progress).data)
            return
        folder = out_dir or Path(spec.name)
        made = train_adapter(spec, folder, state_dir=state_dir, progress=progress, resume=resume, replace=replace)
    for split, metrics in made.results.items():
        out.print(f"{split}: loss {metrics['loss']:.4f}, {metrics['accuracy']:.1%} of the answers right")
    report_written(folder)
    if made.stopped_by and made.steps < made.all_steps:
        err.print(
            f"stopped by {made.stopped_by} at step {made.steps} of {made.all_steps}: this is the best epoch so far; "
            "--resume goes on",
            style="yellow",
        )
        raise typer.Exit(EXIT_INTERRUPTED)


def _show_data(data: PreparedData) -> None:
    table = Table("", *data.splits)
    splits = list(data.splits.values())
    for name, values in (
        ("rows", [len(split.rows) for split in splits]),
        ("conversations", [split.conversations for split in splits]),
        ("tokens", [split.tokens.total for split in splits]),
        ("before the activation point", [split.tokens.before for split in splits]),
        ("learned", [split.tokens.learned for split in splits]),
        ("of the longest row", [split.tokens.longest for split in splits]),
        ("rows skipped", [len(split.skipped) for split in splits]),
        ("rows with documents cut", [len(split.cut) for split in splits]),
    ):
        table.add_row(name, *map(str, values))
    out.print(table)
    for line in _facts(data):
        out.print(line, markup=False, soft_wrap=True)


def _facts(data: PreparedData) -> Iterable[str]:
    yield f"invocation: token ids {list(data.invocation_ids)}, in mode {data.mode.value}; in place: {data.shown}"
    yield from data.remarks
