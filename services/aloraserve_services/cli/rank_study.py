"""``aloraserve rank-study``: adapters of several ranks from the same data, and how well each does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aloraserve.errors import SettingsError
from aloraserve_services.cli.console import check_folder, report_written
from aloraserve_services.cli.evaluate import SpecFile
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.cli.training_progress import TrainingBars


@takes_settings("state_dir")
def rank_study(
    chosen: ChosenSettings,
    spec: SpecFile,
    ranks: Annotated[str, typer.Option(help="Of the adapters, separated by commas.")] = "1,2,4,8,16,32,64",
    kinds: Annotated[str, typer.Option(help="alora, lora, or both, separated by a comma.")] = "alora,lora",
    split: Annotated[Literal["validation", "test"], typer.Option(help="Rows that are asked about.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most, chosen by the seed.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of rows and of the intervals.")] = 0,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for adapters, report and figures.")] = Path(
        "rank-study"
    ),
) -> None:
    """Train adapters of several ranks and evaluate them on the same rows; what is trained already is kept."""
    chosen_ranks, chosen_kinds = _ranks(ranks), _kinds(kinds)
    from aloraserve.training import TrainingSpec
    from aloraserve.training.rank_results import STUDY_FILE
    from aloraserve_services.training.evaluation import RowChoice
    from aloraserve_services.training.rank_study import Cell, study_ranks
    from aloraserve_services.training.report.rank_report import write_rank_study
    from aloraserve_services.training.run import prepare_training

    read, state_dir = TrainingSpec.read(spec), chosen.load().state_dir
    if read.kind != "alora":
        raise SettingsError(f"{spec.name} has the kind lora; a spec of an aLoRA is accepted, whose twin is the LoRA")

    check_folder(out_dir)
    cells = [Cell.of(read, kind, rank, out_dir) for kind in chosen_kinds for rank in chosen_ranks]
    with TrainingBars() as progress:
        prepared = prepare_training(read, state_dir, progress)
        study = study_ranks(prepared, cells, RowChoice(split, limit, seed), state_dir=state_dir, progress=progress)
    out_dir.mkdir(parents=True, exist_ok=True)
    study.write(out_dir / STUDY_FILE)
    write_rank_study(out_dir, study)
    report_written(out_dir)


def _ranks(text: str) -> list[int]:
    from aloraserve.training.spec import MAX_RANK

    try:
        found = sorted({int(rank) for rank in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(1 <= rank <= MAX_RANK for rank in found):
        raise SettingsError(
            f"--ranks is {text[:80]!r}; integers from 1 to {MAX_RANK}, separated by commas, are accepted"
        )
    return found


def _kinds(text: str) -> list[Literal["alora", "lora"]]:
    kinds: tuple[Literal["alora", "lora"], ...] = ("alora", "lora")
    given = text.split(",")
    if not given or not set(given) <= set(kinds):
        raise SettingsError(f"--kinds is {text[:80]!r}; alora, lora or both, separated by a comma, are accepted")
    return [kind for kind in kinds if kind in given]
