"""``aloraserve evaluate``: how well a trained adapter does, through PEFT and through a running platform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE
from rich.table import Table

from aloraserve.errors import SettingsError
from aloraserve_services.cli.console import EXIT_FAILED, check_folder, err, out, report_written
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.cli.training_progress import TrainingBars

if TYPE_CHECKING:
    from aloraserve.training.results import EvaluationReport
    from aloraserve_services.training.run import PreparedTraining
    from aloraserve_services.training.served_answers import PlatformTarget

MAX_KEY_BYTES = 4096

SpecFile = Annotated[Path, typer.Argument(help="YAML file of the training.", show_default=False)]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder for report.md, report.html and results.json.")]
EvaluationDtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="Of PEFT's computation; auto: as the platform says, else as engines here."),
]


@takes_settings("state_dir")
def evaluate(
    chosen: ChosenSettings,
    spec: SpecFile,
    adapter: Annotated[Path, typer.Option(help="Folder of the trained adapter.", show_default=False)],
    twin: Annotated[Path | None, typer.Option(help="Folder of a plain LoRA trained on the same data.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Folder of another aLoRA, such as one with an invocation of one token.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of a platform that serves the adapter too.")] = None,
    model: Annotated[str | None, typer.Option(help="What it calls the adapter.")] = None,
    twin_model: Annotated[str | None, typer.Option(help="What it calls the twin, if it serves that too.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with the platform's API key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Calls of the platform at a time.")] = 4,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Rows that are asked about.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most, chosen by the seed.")] = None,
    told: Annotated[
        str | None, typer.Option(help="What the base model is told; made of the spec's description by default.")
    ] = None,
    dtype: EvaluationDtype = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of rows and of the intervals.")] = 0,
    beside: Annotated[
        list[Path] | None, typer.Option(help="results.json of another task, to show in the same report. Repeatable.")
    ] = None,
    output: OutFolder = Path("evaluation"),
) -> None:
    """Evaluate an adapter against base model and LoRA; the exit code is 1 if PEFT and the platform disagree."""
    from aloraserve.training.results import RESULTS_FILE, EvaluationReport
    from aloraserve_services.training.evaluation import EvaluationRequest, RowChoice
    from aloraserve_services.training.evaluation import evaluate as evaluated
    from aloraserve_services.training.report.evaluation_report import write_evaluation

    others = [EvaluationReport.read(path) for path in beside or ()]
    platform = _platform(url, model, twin_model, api_key_file, concurrency)
    prepared = _prepared(spec, _dtype(dtype, platform), chosen)
    if platform is not None and platform.dtype not in (None, prepared.dtype):
        said = (
            f"the platform computes in {platform.dtype}, and PEFT in {prepared.dtype}: answers may differ by rounding"
        )
        err.print(said, style="yellow", soft_wrap=True)
    request = EvaluationRequest(prepared, adapter, twin, compare, RowChoice(split, limit, seed), told, platform)
    check_folder(output)
    with TrainingBars() as progress:
        report = evaluated(request, progress)
    output.mkdir(parents=True, exist_ok=True)
    report.write(output / RESULTS_FILE)
    write_evaluation(output, [report, *others])
    _show(report)
    report_written(output)
    if any(found.disagreements for found in report.agreements):
        err.print("PEFT and the platform disagree; the report lists where", style="red")
        raise typer.Exit(EXIT_FAILED)


def _prepared(spec: Path, dtype: Literal["auto", "float32", "bfloat16"], chosen: ChosenSettings) -> PreparedTraining:
    from aloraserve.training import TrainingSpec
    from aloraserve_services.training.run import prepare_training

    read = TrainingSpec.read(spec)
    changed = read.model_copy(update={"training": read.training.model_copy(update={"dtype": dtype})})
    return prepare_training(changed, chosen.load().state_dir)


def _dtype(
    asked: Literal["auto", "float32", "bfloat16"], platform: PlatformTarget | None
) -> Literal["auto", "float32", "bfloat16"]:
    said = None if platform is None else platform.dtype
    return said if asked == "auto" and said is not None else asked


def _platform(
    url: str | None, model: str | None, twin_model: str | None, key_file: Path | None, concurrency: int
) -> PlatformTarget | None:
    from aloraserve_services.training.platform_dtype import platform_dtype
    from aloraserve_services.training.served_answers import PlatformTarget

    given = {"--model": model, "--twin-model": twin_model, "--api-key-file": key_file}
    if url is None:
        alone = next((name for name, value in given.items() if value is not None), None)
        if alone is not None:
            raise SettingsError(f"{alone} is given without --url; accepted: both")
        return None
    if model is None:
        raise SettingsError(
            "--url is given without --model; accepted: both, the model as the platform calls the adapter"
        )
    target = PlatformTarget(url, model, twin_model, None if key_file is None else _key(key_file), concurrency)
    return replace(target, dtype=platform_dtype(target))


def _key(path: Path) -> str:
    try:
        text = path.read_bytes()[: MAX_KEY_BYTES + 1].decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--api-key-file cannot be read: {type(error).__name__}") from None
    if not text or len(text) > MAX_KEY_BYTES or len(text.split()) > 1:
        raise SettingsError("--api-key-file does not hold a key; one line is accepted")
    return text


def _show(report: EvaluationReport) -> None:
    from aloraserve_services.training.report.evaluation_report import (
        agreement_text,
        comparison_text,
        near_tie_text,
        unsaid_text,
    )
    from aloraserve_services.training.report.figures import TITLES, with_interval

    table = Table(box=SIMPLE, title=f"{report.task}: {report.items} rows, {report.split}", title_justify="left")
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.figures))
    for head in ("arm", *(TITLES[name] for name in names)):
        table.add_column(head, justify="left" if head == "arm" else "right")
    for arm in report.arms:
        table.add_row(arm.name, *(with_interval(name, arm.figures.get(name)) for name in names))
    out.print(table)
    for text in filter(None, map(unsaid_text, report.arms)):
        out.print(text, markup=False)
    for comparison in report.comparisons:
        out.print(f"{comparison.name}: {comparison_text(comparison)}", markup=False)
    for found in report.agreements:
        out.print(f"{found.arm}: {agreement_text(found)}. {near_tie_text(found)}".rstrip(), markup=False)
