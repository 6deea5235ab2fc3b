"""The report: one HTML page that needs nothing else, and the same figures as JSON and CSV."""

from __future__ import annotations

import datetime
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests import figures, plots
from loadtests.plan import LoadPlan
from loadtests.samples import Sample, Samples

PAPER = (
    ("E2E of the evaluation step", "58x at 65,000 tokens"),
    ("TTFT of the evaluation step", "more than 100x at 65,000 tokens"),
)
"""Li et al., arXiv 2512.17910: Granite models on an H100, one engine."""
RANDOM = (
    "Texts, questions, pauses, arrivals and the order of arms come from the seed. Prompts are up to 32 tokens shorter "
    "or longer than their nominal length, spread evenly, so that conversations end anywhere within a block. In "
    "base-adapter all arms judge one conversation, whose prompts are equal to the last token; elsewhere each arm has a "
    "variant that differs in 16 digits of the system message, so that nothing is shared. Answers may differ between "
    "variants."
)
LIMITS = (
    "The adapters are untrained twins: equal weights, rank and targets; what they cost is real, what they say is not. "
    "Each adapter was called once before anything was measured, so that none is loaded meanwhile. LoRA calls have the "
    "plugin's CPU kernels and their own prefix cache. A client on the same machine shares its cores with the engines."
)
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:13px}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}.missed{color:#b00}svg{max-width:100%;height:auto}"
)


def write(folder: Path, plan: LoadPlan, samples: Samples, facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and ``samples.csv``; return the JSON's content.

    Args:
        folder: made if it is not there.
        plan: that was played.
        samples: all of them.
        facts: of platform and machine, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(samples)
    content = {
        "facts": facts,
        "plan": _plan(plan),
        "rows": figures.rows(kept),
        "ratios": figures.ratios(kept),
        "savings": figures.savings(kept),
        "checks": figures.checks(kept, {phase.name for phase in plan.phases if phase.kv_cache_gib is not None}),
        "dropped_samples": samples.dropped,
    }
    (folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    samples.write_csv(folder / "samples.csv")
    (folder / "report.html").write_text(_page(content, kept), "utf-8")
    return content


def _plan(plan: LoadPlan) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(plan), default=str))
    return content


def _page(content: dict[str, Any], samples: Sequence[Sample]) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        "<h1>LoRA against aLoRA</h1>",
        _table(("", ""), [(name, value) for name, value in content["facts"].items()] + [("written", now)]),
        "<h2>What was to be reached</h2>",
        _checks(content["checks"]),
        "<h2>LoRA : aLoRA, evaluation step</h2>",
        _ratios(content["ratios"]),
        plots.ratio_curve(content["ratios"]),
        "<h2>Times by length and arm</h2>",
        plots.by_length(content["rows"], "ttft", "TTFT of the evaluation step"),
        plots.by_length(content["rows"], "e2e", "E2E of the evaluation step"),
        "<h2>Times under load</h2>",
        plots.by_load(content["rows"], "ttft", "TTFT of the intrinsics, by phase"),
        plots.by_load(content["rows"], "e2e", "E2E of the intrinsics, by phase"),
        "<h2>Cached tokens</h2>",
        plots.cached_shares(content["rows"]),
        "<h2>Throughput and timeline</h2>",
        plots.throughput(samples),
        plots.timeline(samples),
        "<h2>Savings</h2>",
        _savings(content["savings"]),
        plots.savings(samples),
        "<h2>All rows</h2>",
        _rows(content["rows"]),
        "<h2>Against the paper</h2>",
        _paper(content["ratios"]),
        f"<h2>What was random</h2><p>{html.escape(RANDOM)}</p>",
        f"<h2>What is not comparable</h2><p>{html.escape(LIMITS)}</p>",
    ]
    head = f'<meta charset="utf-8"><title>LoRA against aLoRA</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(heads: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in line) + "</tr>" for line in lines)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return html.escape(f"{value:,.3f}" if isinstance(value, float) else str(value))


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    lines = "".join(
        f'<tr class="{"" if check["met"] else "missed"}"><td>{html.escape(check["name"])}</td>'
        f"<td>{check['found']:g}</td><td>{check['wanted']:g}</td><td>{'met' if check['met'] else 'missed'}</td></tr>"
        for check in checks
    )
    return f"<table><tr><th>figure</th><th>found</th><th>wanted</th><th></th></tr>{lines}</table>"


def spread(found: Any) -> str:
    """Return a ratio with its interval, for people."""
    return "-" if found is None else f"{found['p50']:.1f}x ({found['low']:.1f} to {found['high']:.1f})"


def _ratios(ratios: Sequence[dict[str, Any]]) -> str:
    heads = ("phase", "pipeline", "step", "LoRA's state", "length", "tokens", "n", "TTFT", "E2E")
    names = ("phase", "pipeline", "step", "state", "length", "prompt_tokens", "n")
    times = ("ttft", "e2e")
    lines = [[*(ratio[name] for name in names), *(spread(ratio[name]) for name in times)] for ratio in ratios]
    return _table(heads, lines)


def _rows(rows: Sequence[dict[str, Any]]) -> str:
    heads = [name for name in rows[0] if not name.endswith("interval_s")] if rows else []
    return _table(heads, [[row[name] for name in heads] for row in rows])


def _savings(found: dict[str, Any]) -> str:
    if found["estimated_s"] is None:
        return "<p>No aLoRA call was made alone whose answer said what it saved and that had a LoRA twin.</p>"
    return (
        f"<p>Of {found['pairs']} aLoRA calls made alone with a LoRA twin on an equal prompt the platform estimated "
        f"{found['estimated_s']:.2f} s saved; measured were {found['measured_s']:.2f} s.</p>"
    )


def _paper(ratios: Sequence[dict[str, Any]]) -> str:
    fresh = [
        ratio
        for ratio in ratios
        if ratio["ttft"]
        and (ratio["pipeline"], ratio["step"], ratio["state"]) == ("base-adapter", "evaluation", "first")
    ]
    if not fresh:
        return "<p>No fresh prompts were measured.</p>"
    longest = max(fresh, key=lambda ratio: int(ratio["length"]))
    here = (spread(longest["e2e"]), spread(longest["ttft"]))
    lines = [
        (name, f"{ours} at {longest['prompt_tokens']:,} tokens", paper)
        for (name, paper), ours in zip(PAPER, here, strict=True)
    ]
    return _table(("", "here", "arXiv 2512.17910 (H100, other model and lengths)"), lines)
