"""``aloraserve demo``: a conversation with adapters on a platform of its own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from aloraserve_services.cli.console import out, report_written
from aloraserve_services.cli.options import ChosenSettings, takes_settings


@takes_settings("model", "replicas", "port", "redis_url", "state_dir", "dtype", "policy")
def demo(
    chosen: ChosenSettings,
    json: Annotated[Path | None, typer.Option(help="Also write calls and summary to this file.")] = None,
) -> None:
    """Run a conversation with adapters on a platform of its own and show what was reused."""
    from aloraserve_services.cli.client import StreamingClient
    from aloraserve_services.cli.demo_player import DemoPlayer
    from aloraserve_services.cli.demo_report import RowPrinter, print_summary, write_json
    from aloraserve_services.cli.own_platform import own_platform, own_settings
    from aloraserve_services.models.shipped_adapters import demo_adapters

    settings = own_settings(chosen, json)
    adapters = functools.partial(demo_adapters, settings.state_dir)
    with (
        own_platform(settings, adapters_dir=adapters) as platform,
        StreamingClient(platform.url, platform.headers) as client,
    ):
        plan = platform.plan
        player = DemoPlayer(plan, client, RowPrinter(out))
        rows = player.play()
        print_summary(out, rows, untrained=player.untrained, untrained_twins=player.untrained_twins)
        if json is not None:
            facts = {
                "model": plan.served_name,
                "dtype": plan.dtype,
                "replicas": settings.replicas,
                "untrained": player.untrained,
            }
            write_json(json, rows, facts)
            report_written(json)
