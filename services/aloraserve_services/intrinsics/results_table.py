"""Results of an evaluation in a model card: each arm's figures with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator

from aloraserve.training.results import EvaluationReport
from aloraserve_services.training.report.evaluation_report import comparison_text
from aloraserve_services.training.report.figures import TITLES, with_interval

_HEADING = "## Results\n\n"


def with_results(card: str, report: EvaluationReport) -> str:
    """Return a model card whose results are those of an evaluation, in place of the training's own.

    Args:
        card: as the training wrote it.
        report: of the evaluation.
    """
    before, _, after = card.partition(_HEADING)
    rest = after[after.index("\n## ") :] if "\n## " in after else ""
    return f"{before}{_HEADING}" + "\n".join(_lines(report)) + f"\n{rest}"


def _lines(report: EvaluationReport) -> Iterator[str]:
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.figures))
    yield f"On {report.items} held-back rows, with 95 % intervals (bootstrap over rows):"
    yield ""
    yield "| | " + " | ".join(TITLES[name] for name in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for arm in report.arms:
        yield f"| {arm.name} | " + " | ".join(with_interval(name, arm.figures.get(name)) for name in names) + " |"
    yield ""
    for comparison in report.comparisons:
        yield f"- {comparison.name}: {comparison_text(comparison)}"
