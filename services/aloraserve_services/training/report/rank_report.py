"""The report of a rank study: one plot, one table, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aloraserve.training.rank_results import RankCell, RankStudy
from aloraserve.training.spec import Kind
from aloraserve_services.training.report import plots
from aloraserve_services.training.report.figures import NO_FIGURE, TITLES, number, with_interval
from aloraserve_services.training.report.pages import write_report
from aloraserve_services.training.report.section import Plot, Section, Table

NAMES: dict[Kind, str] = {"alora": "aLoRA", "lora": "LoRA"}
_METHOD = (
    "Each cell is trained on the same rows with its kind's alpha and learning rate, whatever its rank. It answers the "
    "same held-back rows, greedily and held to the form. Intervals are 95 % by percentile bootstrap over rows; they do "
    "not hold what another seed of the training would change."
)


def write_rank_study(folder: Path, study: RankStudy) -> None:
    """Write a study's report.

    Args:
        folder: that is there.
        study: the figures.

    Raises:
        OSError: a file cannot be written.
    """
    write_report(folder, f"Rank of {study.task}: aLoRA against LoRA", list(sections(study)))


def sections(study: RankStudy) -> Iterator[Section]:
    """Yield the sections of a report."""
    kinds: list[Kind] = [kind for kind in NAMES if study.points(kind)]
    lines = [(NAMES[kind], kind, study.points(kind)) for kind in kinds]
    levels = [(arm.name, arm.role, arm.figures[study.primary].value) for arm in study.levels]
    svg = plots.error_by_rank(lines, levels, study.primary)
    plot = Plot(f"rank-{study.task}", f"{TITLES[study.primary]} over rank, aLoRA and LoRA", svg)
    said = f"{study.items} rows of the split {study.split}. {_METHOD}"
    yield Section(f"{TITLES[study.primary].capitalize()} over rank", [said], [_table(study)], [plot])
    yield Section("How it was measured", (), [Table(["", ""], [[name, value] for name, value in study.facts.items()])])


def _table(study: RankStudy) -> Table:
    names = list(dict.fromkeys(name for cell in study.cells for name in cell.arm.figures))
    rows = [
        [arm.name, *[NO_FIGURE] * 3, *(with_interval(name, arm.figures.get(name)) for name in names)]
        for arm in study.levels
    ]
    rows += [
        [*_cell(cell), *(with_interval(name, cell.arm.figures.get(name)) for name in names)] for cell in study.cells
    ]
    return Table(["", "parameters", "validation loss", "training, s", *(TITLES[name] for name in names)], rows)


def _cell(cell: RankCell) -> list[str]:
    trained = cell.trained
    return [cell.arm.name, f"{cell.parameters:,}", number("loss", trained.validation_loss), f"{trained.seconds:.0f}"]
