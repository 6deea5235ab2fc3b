"""The autoscaler's decisions as ``aloraserve explain scaling`` prints them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

REASONS = {
    "unknown": "nothing is known of the load: what there is stays",
    "ttft": "for the time to first token",
    "itl": "for the time between tokens",
    "backlog": "for calls that wait, with their answers",
    "kv-cache": "for room for answers: in the KV cache, or among max_requests",
    "held": "calls wait for a first replica",
    "counts": "by requests in progress: the directory is gone, or gateways do not report",
    "idle": "no calls for idle_timeout_s",
    "cool-down": "another number would do, but not for long enough yet",
    "min-replicas": "the lower bound",
    "max-replicas": "the upper bound",
}


def show_scaling(console: Console, report: dict[str, Any]) -> None:
    """Print the last decision with its numbers, and the changes before it."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if not report["autoscaling"]:
        line(f"autoscaling is off: {report['replicas']} replicas")
        return
    line(
        f"{report['min_replicas']} to {report['max_replicas']} replicas, for a TTFT of "
        f"{report['ttft_objective_s']:g} s and {report['itl_objective_s'] * 1000:g} ms between tokens"
    )
    latest = report["latest"]
    if report["board"] != "ok":
        line(f"decisions: Redis {report['board']}; Serve's controller logs them, too")
    elif latest is None:
        line("nothing was decided in the last minute")
    else:
        for text in _latest(latest):
            line(text)
    if report["changes"]:
        console.print(_changes(report["changes"]))


def _latest(latest: dict[str, Any]) -> list[str]:
    estimate = latest["estimate"]
    lines = [
        f"target {latest['target']}: {_reason(latest)}; the load needs {latest['needed']}",
        f"now {latest['running']} running, {latest['starting']} starting, {len(latest['leaving'])} leaving; "
        f"{latest['gateways']} gateway{' reports' if latest['gateways'] == 1 else 's report'}",
        f"arriving: {estimate['calls_per_s']:.1f} calls, {estimate['prefill_s_per_s']:.2f} s of prefill and "
        f"{estimate['decode_s_per_s']:.2f} s of answers per second; {estimate['backlog_s']:.1f} s queued",
        f"expected with the target: TTFT {_seconds(estimate['ttft_s'])}, "
        f"{_seconds(estimate['itl_s'])} between tokens, KV cache {100 * estimate['kv_usage']:.0f}% used; "
        f"a replica starts in {estimate['start_s']:.0f} s",
    ]
    if latest["victims_chosen_by"] == "serve":
        lines.append("Serve stops the newest replicas: this Ray's scheduler is another one than is known here")
    return lines


def _changes(changes: list[dict[str, Any]]) -> Table:
    table = Table(title="changes, the newest first", title_justify="left")
    for head in ("at", "target", "was", "needed", "why", "stopped"):
        table.add_column(head, justify="right" if head in {"target", "was", "needed"} else "left")
    for change in changes:
        stopped = ", ".join(victim["label"] for victim in change["victims"])
        # A release that is older than this command's did not keep it.
        before = change.get("before")
        figures = (change["target"], "?" if before is None else before, change["needed"])
        table.add_row(change["at"][:19].replace("T", " "), *map(str, figures), _reason(change), stopped)
    return table


def _reason(decision: dict[str, Any]) -> str:
    # Of a gateway that is newer than this command there may be others.
    return REASONS.get(decision["reason"], decision["reason"])


def _seconds(figure: float | None) -> str:
    return "without end" if figure is None else f"{figure * 1000:,.0f} ms"
