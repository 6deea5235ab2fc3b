"""Parts of the report that people read: Markdown, and a page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from aloraserve.training.agreement import agreement
from aloraserve.training.bootstrap import Estimate
from aloraserve.training.results import ArmResult, EvaluationReport, ItemResult, Role, Through
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import ArmAnswers, compared, scored
from aloraserve_services.training.report import plots
from aloraserve_services.training.report.evaluation_report import sections, title_of
from aloraserve_services.training.report.figures import number, with_interval
from aloraserve_services.training.report.pages import markdown, page

YES_NO = ScoredForm("choice", ("Y", "N"), (1.0, 0.0))
TRUTH = "YN" * 20


def arm(name: str, role: Role, answers: str, through: Through = "peft", tokens: str = "") -> ArmResult:
    items = [
        ItemResult(
            file="rows.jsonl",
            line=line,
            truth=true,
            text=answer,
            label=answer,
            probability=0.9 if answer == "Y" else 0.1,
            margins=((answer, 2.0),),
        )
        for line, (true, answer) in enumerate(zip(TRUTH, answers, strict=True), 1)
    ]
    facts = {"invocation": f"<|{role}|>", "invocation tokens": tokens} if tokens else {}
    return scored(YES_NO, ArmAnswers(name, role, through, items, facts))


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    arms = [
        arm("majority class", "majority", "Y" * 40, "rule"),
        arm("base model, told", "told", "Y" * 10 + TRUTH[10:30] + "N" * 10),
        arm("aLoRA", "alora", TRUTH[:39] + "Y", tokens="4"),
        arm("LoRA", "lora", TRUTH),
        arm("compared <aLoRA>", "compared", "N" + TRUTH[1:], tokens="1"),
        arm("aLoRA, served", "alora", "N" + TRUTH[1:39] + "Y", "platform"),
    ]
    return EvaluationReport(
        task="safety",
        kind="choice",
        labels=("Y", "N"),
        primary="error",
        split="test",
        arms=tuple(arms),
        comparisons=tuple(compared(YES_NO, arms)),
        agreements=(agreement(arms[2], arms[5], "float32"),),
        facts={"machine": "a | b", "seed": "0"},
    )


def test_markdown_says_what_decides_how_certain_it_is_and_what_differs(report: EvaluationReport) -> None:
    text = markdown(title_of([report]), list(sections([report])))
    assert text.startswith("# aLoRA against LoRA: safety\n")
    assert "## Errors by task (the paper's Fig. 3)" in text
    assert re.search(r"\| aLoRA \| 2\.5 % \(0\.0 to \d\.\d %\) \|", text)
    assert re.search(r"\| safety, error \| 1\.6 % \| 2\.2 % \| 2\.2 % \| 4\.2 % \| 0\.0 % ", text)
    assert "| guardian | 66.7% | 81.6% | 81.5% |" in text
    assert "aLoRA is better than the majority class; the intervals are apart." in text
    assert "of 40 answers 39 are equal, 0 differ by a near tie" in text.lower()
    assert "| rows.jsonl:1 | 'Y' | 'N' | 2.0000 | disagreement |" in text
    assert "| machine | a \\| b |" in text
    assert "gain ratio of aLoRA: (served - told) / (PEFT - told)" in text
    assert "| safety | '<\\|alora\\|>' | 4 | 2.5 %" in text


class Page(HTMLParser):
    """Notes what a page loads and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_follows_light_and_dark(report: EvaluationReport) -> None:
    text = page(title_of([report]), list(sections([report])))
    found = Page()
    found.feed(text)
    assert found.open == []
    assert all(where.startswith("#") for where in found.loaded)
    assert "light-dark(" in text
    assert "compared &lt;aLoRA&gt;" in text
    assert text.count("<svg") == 3
    assert "currentColor" in text
    assert plots._INK not in text


def test_equal_reports_are_drawn_equally(report: EvaluationReport) -> None:
    assert plots.reliability(report) == plots.reliability(report)


def test_figures_have_their_unit_and_sign() -> None:
    assert number("error", 0.125) == "12.5 %"
    assert number("mae", 0.5, signed=True) == "+0.500"
    assert with_interval("error", Estimate(-0.1, -0.2, 0.05, 9), signed=True) == "-10.0 % (-20.0 to +5.0 %)"
    assert with_interval("ratio", Estimate(float("nan"), float("nan"), float("nan"), 9)) == "-"
