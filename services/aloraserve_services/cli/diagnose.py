"""``aloraserve diagnose``: how far prompts were reused lately, and why no further."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from aloraserve_services.cli.admin_api import admin_authorization, fetch_for_admin
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, PlatformUrl, PrintJson, takes_settings
from aloraserve_services.cli.reaching import reaching

RUNGS = {
    "endless": "in one cache that forgets nothing",
    "capacity": "in one cache of the fleet's size",
    "routing": "on the replica that had most",
    "predicted": "as the router expected",
    "delivered": "as the engines counted",
}
CAUSES = {
    "queue": "held elsewhere, but a call would have waited longer there",
    "adapter": "held where the adapter would have had to be loaded",
    "memory": "held where the KV cache had no room, or in a slower tier",
    "full": "the chosen replica took no more calls, or was lost",
    "in_flight": "another call was still computing it",
    "evicted": "nobody held it any more",
    "unpublished": "computed within the last seconds, and not in the directory yet",
    "fallback": "the directory did not answer",
    "salted": "the base model's, which a plain LoRA cannot use",
}
BAR_WIDTH = 20


@takes_settings("state_dir")
def diagnose(
    chosen: ChosenSettings,
    window: Annotated[str, typer.Option(help="How far back, such as 90s, 15m or 24h.")] = "1h",
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Show how far prompts were reused lately, rung by rung, and why no further."""
    settings = chosen.load()
    with reaching(settings.state_dir, url, admin_authorization(settings)) as client:
        content = fetch_for_admin(client, f"/v1/diagnosis?window={quote(window, safe='')}")
    if json:
        out.print_json(data=content)
    else:
        show_diagnosis(out, content)


def show_diagnosis(console: Console, content: dict[str, Any]) -> None:
    """Print the ladder, each rung as a share of the prompts, and what was prefilled again, by why."""
    prompt = content["ladder"]["prompt"]
    gateways = "1 gateway" if content["gateways"] == 1 else f"{content['gateways']} gateways"
    head = f"{content['calls']:,} calls with {prompt:,} prompt tokens in {content['window_s'] // 60} min, {gateways}"
    console.print(head, highlight=False, soft_wrap=True)
    if not prompt:
        return
    ladder = _table("tokens that need no prefill")
    for rung, where in RUNGS.items():
        _row(ladder, rung, content["ladder"][rung], prompt, where)
    console.print(ladder)
    missed = {cause: tokens for cause, tokens in content["missed"].items() if tokens}
    if missed:
        causes = _table("tokens that were prefilled all the same")
        for cause, tokens in sorted(missed.items(), key=lambda item: -item[1]):
            _row(causes, cause, tokens, prompt, CAUSES[cause])
        console.print(causes)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for is_figure in (False, True, True, False, False):
        table.add_column(justify="right" if is_figure else "left")
    return table


def _row(table: Table, name: str, tokens: int, prompt: int, meaning: str) -> None:
    bar = ProgressBar(total=prompt, completed=tokens, width=BAR_WIDTH)
    table.add_row(name.replace("_", " "), f"{tokens:,}", f"{tokens / prompt:.1%}", bar, meaning)
