"""``aloraserve keys``: make API keys, list, rotate and revoke them."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from aloraserve.tenants import Role
from aloraserve.tenants.keys import NewKey
from aloraserve.wire.tenants import key_json
from aloraserve_services.cli.console import err, out
from aloraserve_services.cli.options import ChosenSettings, PrintJson, takes_settings
from aloraserve_services.cli.tenant_access import seconds, with_manager
from aloraserve_services.cli.tenant_tables import show_keys

app = typer.Typer(
    name="keys",
    help="Make API keys, list, rotate and revoke them, in the fleet's Redis; gateways follow within a second.",
    no_args_is_help=True,
)

KeyId = Annotated[str, typer.Argument(help="Public id of a key: the 12 digits behind ak-.")]


@app.command("create")
@takes_settings("redis_url", "state_dir")
def create(
    chosen: ChosenSettings,
    tenant: Annotated[str | None, typer.Argument(help="Whose it is; none: an administrator's alone.")] = None,
    role: Annotated[list[Role] | None, typer.Option(help="May be given several times; invoke for a tenant's.")] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires: Annotated[str, typer.Option(help="How long it is valid, such as 90d; none: until it is revoked.")] = "",
    json: PrintJson = False,
) -> None:
    """Make a key and print it, this once."""
    roles = role or ([Role.ADMIN] if tenant is None else [Role.INVOKE])
    expires_in_s = seconds(expires, "expires") if expires else None
    settings = chosen.load()
    _print_new(
        with_manager(
            settings, lambda manager: manager.create_key(tenant, roles, label=label, expires_in_s=expires_in_s)
        ),
        json,
    )


@app.command("list")
@takes_settings("redis_url", "state_dir")
def list_keys(
    chosen: ChosenSettings,
    tenant: Annotated[str | None, typer.Argument(help="Whose keys; none: all.")] = None,
    json: PrintJson = False,
) -> None:
    """List keys: who has them and what they may do, not the keys themselves."""
    now = time.time()
    records = with_manager(chosen.load(), lambda manager: manager.list())
    shown = [
        key_json(key, record.tenant, now)
        for record in records
        if tenant in (None, record.tenant)
        for key in record.keys
    ]
    if json:
        out.print_json(data=shown)
    else:
        show_keys(out, shown)


@app.command("rotate")
@takes_settings("redis_url", "state_dir")
def rotate(
    chosen: ChosenSettings,
    key: KeyId,
    grace: Annotated[str, typer.Option(help="How long the old one stays valid.")] = "24h",
    json: PrintJson = False,
) -> None:
    """Make a key in another's place, with its roles and label, and print it, this once."""
    grace_s = seconds(grace, "grace")
    _print_new(with_manager(chosen.load(), lambda manager: manager.rotate_key(key, grace_s=grace_s)), json)


@app.command("revoke")
@takes_settings("redis_url", "state_dir")
def revoke(chosen: ChosenSettings, key: KeyId, json: PrintJson = False) -> None:
    """Have a key be valid no more, at every gateway within two seconds."""
    record, tenant = with_manager(chosen.load(), lambda manager: manager.revoke_key(key))
    if json:
        out.print_json(data=key_json(record, tenant, time.time()))
    else:
        out.print(f"revoked {record.id}", markup=False)


def _print_new(new: NewKey, json: bool) -> None:
    if json:
        out.print_json(data={"key": new.text} | key_json(new.record, new.tenant, time.time()))
        return
    whose = "no tenant" if new.tenant is None else f"tenant {new.tenant}"
    err.print(f"key {new.record.id} of {whose}, roles {', '.join(new.record.roles)}; it is not shown again:")
    out.print(new.text, markup=False, soft_wrap=True)
