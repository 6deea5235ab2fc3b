"""``aloraserve status``: the replicas, the adapters and the savings of a running platform."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from aloraserve.errors import StartError
from aloraserve_services.cli.admin_api import admin_authorization
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, PlatformUrl, PrintJson, takes_settings
from aloraserve_services.cli.reaching import reaching
from aloraserve_services.local import run_file

MAX_SHOWN = 50
"""Adapters; ``--json`` has all."""


@takes_settings("state_dir")
def status(chosen: ChosenSettings, url: PlatformUrl = None, json: PrintJson = False) -> None:
    """Show the replicas, what each holds and has loaded, and what reuse across adapters saved in the last hour."""
    settings = chosen.load()
    with reaching(settings.state_dir, url, admin_authorization(settings)) as client:
        address = str(client.base_url).rstrip("/")
        content, savings = fetch(client), fetch_savings(client)
    own = None if url is not None else run_file.read(settings.state_dir)
    more = ({} if savings is None else {"savings": savings}) | redis_restarts(own)
    if json:
        out.print_json(data=content | more)
        return
    show(out, address, content)
    show_restarts(out, more)
    if savings is not None:
        show_savings(out, savings)


def redis_restarts(running: run_file.Running | None) -> dict[str, Any]:
    """Return what is to be said of the embedded Redis of a platform, nothing if it has run since the start."""
    if running is None or not running.redis_restarts:
        return {}
    at = datetime.fromtimestamp(running.redis_restarted_at, UTC).isoformat(timespec="seconds")
    return {"embedded_redis_restarts": running.redis_restarts, "embedded_redis_restarted_at": at}


def show_restarts(console: Console, content: dict[str, Any]) -> None:
    """Print that the embedded Redis was started again, if it was."""
    if restarts := content.get("embedded_redis_restarts"):
        times = "once" if restarts == 1 else f"{restarts} times"
        console.print(
            f"the embedded Redis ended and was started again {times}, last at {content['embedded_redis_restarted_at']}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def fetch(client: httpx.Client) -> dict[str, Any]:
    """Return the state of the replicas.

    Args:
        client: of the platform.

    Raises:
        StartError: the platform refuses, or something else answers.
    """
    answer = client.get("/v1/replicas")
    url = client.base_url
    if answer.status_code != 200:
        raise StartError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    try:
        content: dict[str, Any] = answer.json()
    except ValueError:
        raise StartError(f"{url} is not an aloraserve platform: it answered {answer.text[:80]!r}") from None
    return content


def fetch_savings(client: httpx.Client) -> dict[str, Any] | None:
    """Return what reuse across adapters saved in the last hour, None if the platform does not report it.

    Args:
        client: of the platform.
    """
    try:
        answer = client.get("/v1/savings?window=1h")
        content = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def show_savings(console: Console, content: dict[str, Any]) -> None:
    """Print the savings of the last hour: a line for all, and one per adapter."""
    if content["ledger"] != "ok":
        console.print(f"saved in the last hour: unknown, the ledger {content['ledger']}", markup=False, soft_wrap=True)
        return
    console.print(f"saved in the last hour: {_saved(content['total'])}", markup=False, soft_wrap=True)
    for adapter in content["adapters"]:
        console.print(f"  {adapter['name']} ({adapter['kind']}): {_saved(adapter)}", markup=False, soft_wrap=True)


def _saved(figures: dict[str, Any]) -> str:
    text = (
        f"{figures['net_saved_ttft_s']:,.1f} s of TTFT and {figures['saved_tokens']:,} tokens of prefill "
        f"in {figures['calls']:,} calls, confidence {figures['confidence']:.2f}"
    )
    return f"{text}, cost {figures['cost']:,.2f}" if "cost" in figures else text


def show(console: Console, url: str, content: dict[str, Any]) -> None:
    """Print the replicas, what each holds and has loaded, and the adapters."""
    console.print(
        f"[bold]{content['model']}[/bold] in {content['dtype']} at {url}, policy {content['policy']}, "
        f"directory {content['directory']}",
        highlight=False,
        soft_wrap=True,
    )
    replicas = sorted(content["replicas"], key=lambda state: state["label"])
    console.print(_replicas(replicas, content["block_tokens"]))
    for state in replicas:
        console.print(_loaded(state), markup=False, soft_wrap=True)
    console.print(_adapters(content))
    for refused in content["refused"]:
        console.print(f"refused: {refused['name']}: {refused['reason']}", style="red", markup=False)


def _replicas(replicas: list[dict[str, Any]], block_tokens: int) -> Table:
    table = Table(title="replicas", title_justify="left")
    heads = ("replica", "running", "waiting", "queued", "prefill/s", "KV used", "holds")
    for head in heads:
        table.add_column(head, justify="left" if head == "replica" else "right", no_wrap=True)
    for state in replicas:
        load = state["load"]
        table.add_row(
            # A gateway that is older than this command does not report who is leaving.
            f"{state['label']} (leaving)" if state.get("is_leaving") else state["label"],
            str(load["running"]),
            str(load["waiting"]),
            f"{load['queued_prefill_tokens']:,}",
            f"{load['prefill_tokens_per_s']:,.0f}",
            f"{load['kv_usage']:.0%}",
            f"{state['held_blocks'] * block_tokens:,} tokens",
        )
    return table


def _loaded(state: dict[str, Any]) -> str:
    names = state["resident"]
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"{state['label']} has loaded: {', '.join(names[:MAX_SHOWN]) or 'no adapter'}{more}"


def _adapters(content: dict[str, Any]) -> Table:
    table = Table(title="adapters", title_justify="left")
    for head in ("adapter", "kind", "rank", "weights", "loaded on"):
        table.add_column(head)
    # Those that are warm first: of thousands, most are not.
    shown = sorted(content["adapters"], key=lambda adapter: not adapter["loaded"])[:MAX_SHOWN]
    for adapter in sorted(shown, key=lambda adapter: str(adapter["name"])):
        weights = "untrained" if adapter["untrained"] else "trained"
        table.add_row(adapter["name"], adapter["kind"], str(adapter["rank"]), weights, _places(adapter["loaded"]))
    if more := len(content["adapters"]) - len(shown):
        table.caption = f"and {more:,} more"
    return table


def _places(loaded: list[dict[str, Any]]) -> str:
    """Return where an adapter is, the replicas where it is in a slot first."""
    if not loaded:
        return "none (cold)"
    by_level = {level: [place["replica"] for place in loaded if place["level"] == level] for level in ("slot", "host")}
    text = "; ".join(f"{level}: {', '.join(replicas)}" for level, replicas in by_level.items() if replicas)
    return f"{text}; pinned" if any(place["pinned"] for place in loaded) else text
