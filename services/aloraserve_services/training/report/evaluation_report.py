"""The report of evaluations, laid out as arXiv 2504.12397: errors by task (Fig. 3), invocations compared (Fig. 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aloraserve.training.results import Agreement, ArmResult, Comparison, Disagreement, EvaluationReport
from aloraserve.training.scoring import LOWER_IS_BETTER
from aloraserve_services.training.report import plots
from aloraserve_services.training.report.figures import NO_FIGURE, TITLES, number, with_interval
from aloraserve_services.training.report.pages import write_report
from aloraserve_services.training.report.paper import IBM, IBM_SOURCE, PAPER, SOURCE
from aloraserve_services.training.report.section import Plot, Section, Table

MAX_DIFFERING = 50
"""Differences that are listed; the others are counted."""
_METHOD = (
    "Every arm answers the same rows. All are greedy and held to the form of the answers, the base model too: it loses "
    "nothing by talking around the question. The majority class, or the median digit, is that of the training rows. "
    "Intervals are 95 % by percentile bootstrap over rows; differences are drawn on the same rows."
)


def write_evaluation(folder: Path, reports: Sequence[EvaluationReport]) -> None:
    """Write the report of one or several evaluations.

    Args:
        folder: that is there.
        reports: of one task each.

    Raises:
        OSError: a file cannot be written.
    """
    write_report(folder, title_of(reports), list(sections(reports)))


def title_of(reports: Sequence[EvaluationReport]) -> str:
    """Return the title of a report."""
    return f"aLoRA against LoRA: {', '.join(report.task for report in reports)}"


def sections(reports: Sequence[EvaluationReport]) -> Iterator[Section]:
    """Yield the sections of a report."""
    fig3 = Plot("errors", "Error by task, LoRA and aLoRA, here and in the paper", plots.errors_by_task(reports))
    yield Section("Errors by task (the paper's Fig. 3)", [_METHOD], [_errors(reports)], [fig3])
    if any(report.arm("compared") for report in reports):
        fig4 = Plot("invocations", "Error by invocation tokens, here and in the paper", plots.tokens_by_task(reports))
        yield Section("One invocation token and several (the paper's Fig. 4)", (), [_invocations(reports)], [fig4])
    if theirs := [report for report in reports if report.task in PAPER or report.task in IBM]:
        yield Section("What others published", [_OTHERS], list(_published(theirs)))
    for report in reports:
        yield from _task(report)


def _errors(reports: Sequence[EvaluationReport]) -> Table:
    names = list(dict.fromkeys(arm.name for report in reports for arm in report.arms))
    rows = [[report.task, str(report.items), TITLES[report.primary], *_cells(report, names)] for report in reports]
    return Table(["task", "rows", "figure", *names], rows)


def _cells(report: EvaluationReport, names: Sequence[str]) -> list[str]:
    found = {arm.name: arm.figures[report.primary] for arm in report.arms}
    return [with_interval(report.primary, found.get(name)) for name in names]


def _invocations(reports: Sequence[EvaluationReport]) -> Table:
    rows = []
    for report in reports:
        for arm in report.arms:
            if arm.role in ("alora", "compared") and arm.through == "peft":
                cells = [repr(arm.facts.get("invocation", "")), arm.facts.get("invocation tokens", "")]
                rows.append([report.task, *cells, with_interval(report.primary, arm.figures[report.primary])])
    return Table(["task", "invocation", "tokens", "figure that decides"], rows)


_OTHERS = (
    "Of other models and other data: only the distance between the kinds can be compared. Sources: "
    f"{SOURCE}; {IBM_SOURCE}."
)


def _published(reports: Sequence[EvaluationReport]) -> Iterator[Table]:
    rows = []
    for report in reports:
        if (paper := PAPER.get(report.task)) is not None:
            theirs = (paper.lora, paper.alora, paper.single, paper.several)
            cells = [NO_FIGURE if value is None else number(report.primary, value) for value in theirs]
            ours = [
                with_interval(report.primary, arm.figures[report.primary]) if arm else NO_FIGURE
                for arm in (report.arm("lora"), report.arm("alora"))
            ]
            rows.append([paper.title, *cells, *ours])
    if rows:
        heads = ["task", "paper: LoRA", "aLoRA", "aLoRA, one token", "several", "here: LoRA", "aLoRA"]
        yield Table(heads, rows)
    ibm = [IBM[report.task] for report in reports if report.task in IBM]
    if ibm:
        heads = ["IBM's score", "base model, told", "LoRA, rank 16", "aLoRA, rank 32"]
        yield Table(heads, [[name, *(f"{value:.1%}" for value in values)] for name, *values in ibm])


def _task(report: EvaluationReport) -> Iterator[Section]:
    yield Section(f"{report.task}: all figures", _readings(report), [_figures(report), _comparisons(report)])
    if any(arm.reliability for arm in report.arms):
        plot = Plot(f"reliability-{report.task}", f"Reliability of {report.task}", plots.reliability(report))
        yield Section(f"{report.task}: reliability", (), (), [plot])
    if report.labels:
        yield Section(f"{report.task}: confusion", [_CONFUSION], [_confusion(report, arm) for arm in report.arms])
    for found in report.agreements:
        yield _agreement(report, found)
    facts = [[name, value] for name, value in report.facts.items()]
    facts += [[f"{arm.name}: {name}", value] for arm in report.arms for name, value in arm.facts.items()]
    yield Section(f"{report.task}: how it was measured", (), [Table(["", ""], facts)])


_CONFUSION = "Rows are true labels, columns the answers; the last column counts answers that are not a label."


def _readings(report: EvaluationReport) -> list[str]:
    """Return what the figures say, in sentences."""
    better = "lower" if report.primary in LOWER_IS_BETTER else "higher"
    decides = f"What decides is the {TITLES[report.primary]}; {better} is better."
    found = [f"{report.items} rows of the split {report.split}. {decides}"]
    ours, sign = report.arm("alora"), 1 if better == "lower" else -1
    for arm in (report.arm("told"), report.arm("majority", "rule")):
        if ours is None or arm is None:
            continue
        mine, theirs = ours.figures[report.primary], arm.figures[report.primary]
        apart = mine.is_below(theirs) or mine.is_above(theirs)
        is_better = sign * (theirs.value - mine.value) > 0
        words = "better" if is_better else "not better"
        found.append(f"aLoRA is {words} than the {arm.name}; the intervals are {'apart' if apart else 'not apart'}.")
    return found + [text for one in report.arms if (text := unsaid_text(one))]


def _figures(report: EvaluationReport) -> Table:
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.figures))
    rows = [[arm.name, *(with_interval(name, arm.figures.get(name)) for name in names)] for arm in report.arms]
    return Table(["arm", *(TITLES[name] for name in names)], rows)


def _comparisons(report: EvaluationReport) -> Table:
    return Table(["compared", "difference"], [[one.name, comparison_text(one)] for one in report.comparisons])


def comparison_text(one: Comparison) -> str:
    """Return a comparison's figure for people."""
    if one.is_ratio:
        return with_interval("ratio", one.estimate)
    return with_interval(one.figure, one.estimate, signed=True)


def _confusion(report: EvaluationReport, arm: ArmResult) -> Table:
    rows = [[label, *map(str, counts)] for label, counts in zip(report.labels, arm.confusion, strict=True)]
    shades = [[count / max(sum(counts), 1) for count in counts] for counts in arm.confusion]
    return Table([arm.name, *report.labels, "none"], rows, shades)


def agreement_text(found: Agreement) -> str:
    """Return in a sentence how many answers are equal."""
    return (
        f"of {found.items} answers {found.items - len(found.differing)} are equal, {found.near_ties} differ by a near "
        f"tie (PEFT's token won by at most {found.tolerance:g} nats), {len(found.disagreements)} disagree"
    )


def near_tie_text(found: Agreement) -> str:
    """Return in a sentence what near ties mean for the result; empty if there are none."""
    if not found.near_ties:
        return ""
    return (
        "Near ties do not make the exit code 1, and a fault may hide in one; computing in float32 on both sides "
        "(--dtype float32 here) leaves hardly any."
    )


def unsaid_text(arm: ArmResult) -> str:
    """Return in a sentence which figures leave items out; empty if none does."""
    if not arm.unsaid:
        return ""
    return (
        f"{arm.name}: {arm.unsaid} of {len(arm.items)} answers say no probability; Brier score, calibration error and "
        "reliability are of the others."
    )


def _agreement(report: EvaluationReport, found: Agreement) -> Section:
    gap = found.probability_gap
    more = [] if gap is None else [f"Probabilities of equal answers differ by at most {gap:.4f}."]
    more += [ties] if (ties := near_tie_text(found)) else []
    rows = [_differing(one) for one in found.differing[:MAX_DIFFERING]]
    if len(found.differing) > MAX_DIFFERING:
        more.append(f"The first {MAX_DIFFERING} are listed.")
    tables = [Table(["row", "PEFT", "platform", "margin, nats", ""], rows)] if rows else []
    text = agreement_text(found)
    title = f"{report.task}: {found.arm} through PEFT and served"
    return Section(title, [f"{text[0].upper()}{text[1:]}.", *more], tables)


def _differing(one: Disagreement) -> list[str]:
    margin = NO_FIGURE if one.margin is None else f"{one.margin:.4f}"
    texts = [NO_FIGURE if text is None else repr(text[:80]) for text in (one.peft, one.served)]
    return [f"{one.file}:{one.line}", *texts, margin, "near tie" if one.is_near_tie else "disagreement"]
