"""Results of an evaluation in a model card: each arm's figures with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator

from aloraserve.training import TrainingSpec
from aloraserve.training.results import EvaluationReport
from aloraserve_services.training.report.evaluation_report import comparison_text
from aloraserve_services.training.report.figures import TITLES, with_interval

_HEADING = "## Results\n\n"


def with_results(card: str, spec: TrainingSpec, report: EvaluationReport, by_hand: EvaluationReport | None) -> str:
    """Return a model card whose results are those of an evaluation, in place of the training's own.

    Args:
        card: as the training wrote it.
        spec: of the aLoRA.
        report: of the evaluation.
        by_hand: of that of a second test, None if there is none.
    """
    before, _, after = card.partition(_HEADING)
    rest = after[after.index("\n## ") :] if "\n## " in after else ""
    return f"{before}{_HEADING}" + "\n".join(_lines(spec, report, by_hand)) + f"\n{rest}"


def twin_remark(spec: TrainingSpec) -> str:
    """Return what has to be said beside figures of an aLoRA and its twin; empty if both had as many passes.

    Args:
        spec: of the aLoRA.
    """
    own, twins = spec.training.epochs, spec.twin().training.epochs
    if own == twins:
        return ""
    passes = "1 pass" if twins == 1 else f"{twins:g} passes"
    return (
        f"**No claim about aLoRA against LoRA is made from these figures**: the LoRA twin had {passes} over the rows "
        f"and the aLoRA {own:g}, and other learning rates were not tried for the twin."
    )


def _lines(spec: TrainingSpec, report: EvaluationReport, by_hand: EvaluationReport | None) -> Iterator[str]:
    if report.arm("lora") is not None and (remark := twin_remark(spec)):
        yield from (remark, "")
    yield f"On {report.items} held-back rows, with 95 % intervals (bootstrap over rows):"
    yield from _figures(report)
    yield ""
    for comparison in report.comparisons:
        yield f"- {comparison.name}: {comparison_text(comparison)}"
    if by_hand is not None:
        yield from ("", f"On {by_hand.items} messages that we wrote one by one, in other styles:")
        yield from _figures(by_hand)


def _figures(report: EvaluationReport) -> Iterator[str]:
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.figures))
    yield ""
    yield "| | " + " | ".join(TITLES[name] for name in names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for arm in report.arms:
        yield f"| {arm.name} | " + " | ".join(with_interval(name, arm.figures.get(name)) for name in names) + " |"
