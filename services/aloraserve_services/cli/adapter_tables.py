"""Adapters, aliases and reports of checks as tables."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHOWN_DIGITS = 12


def show_adapters(console: Console, entries: list[dict[str, Any]]) -> None:
    """Print versions, one a row."""
    table = _table("adapters", "adapter", "state", "kind", "rank", "size", "owner", "loaded on", "labels")
    for entry in entries:
        table.add_row(
            escape(entry["id"]),
            entry["state"],
            entry["kind"],
            str(entry["rank"]),
            _size(entry["size_bytes"]),
            escape(_owner(entry)),
            escape(", ".join(entry.get("loaded", ())) or "-"),
            escape(", ".join(f"{name}={value}" for name, value in entry["labels"].items())),
        )
    console.print(table)


def show_record(console: Console, record: dict[str, Any]) -> None:
    """Print an adapter's versions and aliases."""
    show_adapters(console, record["versions"])
    show_aliases(console, record)


def show_aliases(console: Console, record: dict[str, Any]) -> None:
    """Print where each alias of an adapter points, and where it pointed before."""
    table = _table("aliases", "alias", "points to", "before", "since", "reason")
    for alias in record["aliases"]:
        table.add_row(
            escape(alias["id"]),
            _shares(alias["shares"]),
            _shares(alias["previous"]),
            _time(alias["at"]),
            escape(alias["reason"]),
        )
    console.print(table)


def show_entry(console: Console, entry: dict[str, Any]) -> None:
    """Print one version's facts and history."""
    facts = f"{entry['kind']} of rank {entry['rank']}, alpha {entry['alpha']:g}, on {', '.join(entry['targets'])}"
    lines = [
        f"{entry['id']}: {facts}",
        f"version {entry['version']}",
        f"from {entry['source'] or 'unknown'}",
        *_invocation(entry["invocation"]),
        *(f"{_time(step['at'])} {step['state']}: {step.get('reason', '')}" for step in entry["history"]),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_report(console: Console, report: dict[str, Any]) -> None:
    """Print whether an adapter is accepted, its facts, and all its problems."""
    facts = report["facts"]
    verdict = "accepted" if report["accepted"] else "not accepted"
    rank = facts["rank"] or "unknown"
    known = f"{facts['kind']}, rank {rank}, {facts['tensors']} tensors, {_size(facts['size_bytes'])}"
    console.print(f"{verdict}: {known}", markup=False, soft_wrap=True)
    if (proof := report.get("activation")) and proof["activation"] is not None:
        where = f"token {proof['activation']} of {proof['prompt_tokens']}"
        console.print(f"acts from {where}: {proof['marked']}", markup=False, soft_wrap=True)
    if report["accepted"]:
        return
    table = _table("problems", "code", "file", "found", "accepted")
    for problem in report["problems"]:
        table.add_row(*(escape(problem[part]) for part in ("code", "file", "found", "accepted")))
    console.print(table)
    if report["omitted"]:
        console.print(f"and {report['omitted']} more of these kinds")


def _invocation(invocation: dict[str, Any] | None) -> list[str]:
    if not invocation:
        return []
    text = repr(invocation["text"]) + ", " if invocation.get("text") else ""
    return [f"invoked by {text}tokens {invocation.get('tokens', [])}"]


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left")
    for head in heads:
        justify: Literal["left", "right"] = "right" if head in ("rank", "size") else "left"
        # What other commands take is whole also on a narrow terminal and in a pipe.
        table.add_column(head, justify=justify, overflow="fold", no_wrap=head in ("adapter", "alias"))
    return table


def _owner(entry: dict[str, Any]) -> str:
    owner = entry["owner"] or "-"
    return f"{owner} (private)" if entry["visibility"] == "private" else owner


def _shares(shares: list[dict[str, Any]]) -> str:
    if len(shares) == 1:
        return str(shares[0]["version"][:_SHOWN_DIGITS])
    return ", ".join(f"{share['version'][:_SHOWN_DIGITS]} {share['share']:.0%}" for share in shares) or "-"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
