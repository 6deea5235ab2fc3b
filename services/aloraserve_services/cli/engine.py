"""``aloraserve engine``: simulated engines as OpenAI servers of their own, without a platform."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from aloraserve.errors import SettingsError
from aloraserve_services.cli.console import Steps
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.local.address import base_url, check_port


@takes_settings(
    *("model", "served_name", "host", "port", "adapters_dir", "state_dir", "calibration", "block_tokens"),
    *("max_model_len", "scheduling_policy", "priority_ageing"),
)
def engine(
    chosen: ChosenSettings,
    count: Annotated[int, typer.Option(min=1, max=64, help="Engines, on the ports from the first one on.")] = 1,
    simulated: Annotated[bool, typer.Option("--simulated", help="The engine without a model; required.")] = False,
) -> None:
    """Serve simulated engines through OpenAI's API, for other projects' routers; stop them with Ctrl-C."""
    from aloraserve_services.bare_engine.server import serve_engines
    from aloraserve_services.models.shipped_adapters import default_adapters
    from aloraserve_services.plan import make_plan

    if not simulated:
        raise SettingsError(
            "only simulated engines are served this way: add --simulated, or start a real one with `vllm serve`"
        )
    settings = chosen.load(engine="simulated")
    for number in range(count):
        check_port(settings.host, settings.port + number)
    steps = Steps()
    plan = make_plan(settings, adapters_dir=functools.partial(default_adapters, settings), progress=steps)
    engines = f"{count} engines, on the ports from {settings.port} on" if count > 1 else "one engine"
    steps(f"serving {plan.served_name} at {base_url(settings)} with {engines}")
    serve_engines(plan, count)
