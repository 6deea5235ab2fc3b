"""``aloraserve explain``: why one request went where it went, and why there are as many replicas as there are."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from aloraserve_services.cli.admin_api import admin_authorization, fetch_for_admin
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, PlatformUrl, PrintJson, takes_settings
from aloraserve_services.cli.reaching import reaching
from aloraserve_services.cli.scaling_report import show_scaling

SCALING = "scaling"
PARTS = ("queue_s", "prefill_s", "decode_s", "slot_s", "adapter_s", "memory_s", "unknown_s", "tpot_s")


@takes_settings("state_dir")
def explain(
    chosen: ChosenSettings,
    request_id: Annotated[str, typer.Argument(help="The answer's x-request-id header, or 'scaling'.")],
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Show why a request went to its replica: the candidates, what was expected of each, and what came of it.

    'aloraserve explain scaling' shows what the autoscaler decided, why, and which replicas it stopped.
    """
    settings = chosen.load()
    is_scaling = request_id == SCALING
    path = "/v1/scaling" if is_scaling else f"/v1/receipts/{quote(request_id, safe='')}"
    with reaching(settings.state_dir, url, admin_authorization(settings)) as client:
        found = fetch_for_admin(client, path)
    if json:
        out.print_json(data=found)
    elif is_scaling:
        show_scaling(out, found)
    else:
        show_receipt(out, found)


def show_receipt(console: Console, receipt: dict[str, Any]) -> None:
    """Print what was decided, what was expected of each candidate, and what came of it."""
    adapter = receipt["adapter"] or "the base model"
    lines = [
        f"request {receipt['request_id']}: {receipt['prompt_tokens']:,} prompt tokens for {adapter}",
        f"policy {receipt['policy']}: {receipt['reason']}",
        f"claim {receipt['claim']}; decided in {_ms(receipt['lookup_ms'])} of lookup, {_ms(receipt['policy_ms'])} of "
        f"policy and {_ms(receipt['claim_ms'])} of claim",
        _answer(receipt),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(_candidates(receipt))
    for number, attempt in enumerate(receipt["attempts"], start=1):
        line = f"attempt {number}: {attempt['label'] or 'no replica'} {attempt['outcome']} (claim {attempt['claim']})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _answer(receipt: dict[str, Any]) -> str:
    if receipt["ttft_s"] is None:
        return "nobody answered"
    line = (
        f"answered by {receipt['label']} after {receipt['ttft_s'] * 1000:,.1f} ms, "
        f"{receipt['cached_tokens']:,} tokens cached"
    )
    # Of a gateway that is older than this command there is none.
    for cause, tokens in receipt.get("missed", {}).items():
        line += f", {tokens:,} missed ({cause.replace('_', ' ')})"
    if receipt["regret_s"] is not None:
        line += f"; regret {receipt['regret_s'] * 1000:,.1f} ms"
    if receipt.get("estimate_error_s") is not None:
        line += f"; {receipt['estimate_error_s'] * 1000:+,.1f} ms against the estimate"
    return line


def _candidates(receipt: dict[str, Any]) -> Table:
    shown, total = receipt["candidates"], receipt["candidate_count"]
    table = Table(title=f"candidates, {len(shown)} of {total}, best first (times in ms)", title_justify="left")
    used = [part for part in PARTS if any(candidate[part] for candidate in shown)]
    for head in ("replica", "overlap", "queued", "TTFT", *(part.removesuffix("_s") for part in used)):
        table.add_column(head, justify="left" if head == "replica" else "right", no_wrap=True)
    for candidate in shown:
        name = f"{candidate['label']} *" if candidate["replica"] == receipt["replica"] else candidate["label"]
        figures = [candidate["expected_ttft_s"], *(candidate[part] for part in used)]
        table.add_row(
            name,
            f"{candidate['overlap_tokens']:,}",
            f"{candidate['queued_tokens']:,}",
            *(f"{figure * 1000:,.1f}" for figure in figures),
        )
    return table


def _ms(figure: float) -> str:
    return f"{figure:,.2f} ms"
