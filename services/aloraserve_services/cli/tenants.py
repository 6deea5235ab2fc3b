"""``aloraserve tenants``: look at tenants, set their limits, delete them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from aloraserve.wire.tenants import tenant_json
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, PrintJson, takes_settings
from aloraserve_services.cli.tenant_access import with_manager
from aloraserve_services.cli.tenant_tables import show_tenants

app = typer.Typer(
    name="tenants",
    help="Look at tenants, set their limits and delete them, in the fleet's Redis; gateways follow within a second.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the tenant.")]
Amount = Annotated[int | None, typer.Option(help="0: no limit.", min=0)]


@app.command("list")
@takes_settings("redis_url", "state_dir")
def list_tenants(chosen: ChosenSettings, json: PrintJson = False) -> None:
    """List tenants that have keys or limits of their own; those of api_keys alone are not among them."""
    records = with_manager(chosen.load(), lambda manager: manager.list())
    shown = [tenant_json(record, time.time()) for record in records if record.tenant is not None]
    if json:
        out.print_json(data=shown)
    else:
        show_tenants(out, shown)


@app.command("set")
@takes_settings("redis_url", "state_dir")
def set_limits(
    chosen: ChosenSettings,
    name: Name,
    requests_per_minute: Amount = None,
    tokens_per_minute: Amount = None,
    uncached_tokens_per_minute: Amount = None,
    concurrency: Amount = None,
    weight: Annotated[float | None, typer.Option(help="Share beside other tenants'; 1 by default.")] = None,
    priority: Annotated[int | None, typer.Option(help="Lower goes first; 0 by default.")] = None,
    json: PrintJson = False,
) -> None:
    """Set limits of a tenant over all gateways; what is not given stays as it is."""
    amounts = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "uncached_tokens_per_minute": uncached_tokens_per_minute,
        "concurrency": concurrency,
    }
    changes: dict[str, Any] = {key: amount or None for key, amount in amounts.items() if amount is not None}
    changes |= {key: value for key, value in (("weight", weight), ("priority", priority)) if value is not None}
    record = with_manager(chosen.load(), lambda manager: manager.set_limits(name, changes))
    shown = tenant_json(record, time.time())
    if json:
        out.print_json(data=shown)
    else:
        show_tenants(out, [shown])


@app.command("rm")
@takes_settings("redis_url", "state_dir")
def remove(chosen: ChosenSettings, name: Name) -> None:
    """Delete a tenant with its keys; its adapters stay."""
    with_manager(chosen.load(), lambda manager: manager.delete_tenant(name))
    out.print(f"deleted {name}", markup=False)
