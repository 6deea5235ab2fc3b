"""``aloraserve adapters``: register adapters, look at them, point aliases to versions, retire and delete them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from aloraserve.errors import SettingsError
from aloraserve_services.cli.adapter_call import (
    CallInput,
    call_adapter,
    caller_authorization,
    conversation_of,
    show_result,
)
from aloraserve_services.cli.adapter_progress import register
from aloraserve_services.cli.adapter_tables import show_adapters, show_aliases, show_entry, show_record, show_report
from aloraserve_services.cli.admin_api import RefusedError, admin_authorization, ask_as_admin
from aloraserve_services.cli.console import out, report_written
from aloraserve_services.cli.options import ChosenSettings, PlatformUrl, PrintJson, takes_settings
from aloraserve_services.cli.reaching import reaching
from aloraserve_services.local import run_file

CHECK_TIMEOUT_S = 1800.0
"""Of a check, for which the platform fetches the adapter first."""
PAGE = 1000

app = typer.Typer(
    name="adapters",
    help="Register adapters, look at them, point aliases to versions, retire and delete them, on a running platform.",
    no_args_is_help=True,
)

Reference = Annotated[str, typer.Argument(help="name, name@alias or name@version, 12 digits of it or more.")]
AliasName = Annotated[str, typer.Argument(help="name@alias; the name alone is what calls of the plain name get.")]
Source = Annotated[
    str,
    typer.Argument(
        help="A folder, or a URL: file://, s3://, gs://, az://, hf://owner/repository, oci://host/name:tag."
    ),
]
Sha256 = Annotated[str, typer.Option(help="SHA-256 that adapter_model.safetensors has to have.")]
Reason = Annotated[str, typer.Option(help="Why, for the adapter's history.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="name=value; may be given several times.")]


@app.command("add")
@takes_settings("state_dir")
def add(
    chosen: ChosenSettings,
    name: Annotated[str, typer.Argument(help="What calls name it.")],
    source: Source,
    owner: Annotated[str | None, typer.Option(help="Tenant that it belongs to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only its owner sees and calls it.")] = False,
    label: Labels = None,
    alias: Annotated[str, typer.Option(help="Alias that is to point to it too, such as canary.")] = "",
    promote: Annotated[bool, typer.Option(help="Whether the plain name stands for it from now on.")] = True,
    sha256: Sha256 = "",
    reason: Reason = "",
    call: Annotated[
        str | None, typer.Option(help="Then call it with this message, or @FILE, as `aloraserve adapters call` does.")
    ] = None,
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Fetch an adapter, check it, store it and serve it; a name that is there gets another version."""
    conversation = None if call is None else conversation_of(call)
    body = {
        "name": name,
        "source": _source(source),
        "owner": owner,
        "visibility": "private" if private else "public",
        "labels": _labels(label),
        "alias": alias,
        "promote": promote,
        "weights_sha256": sha256,
        "reason": reason,
    }
    with _platform(chosen, url) as client:
        outcome = register(client, body, is_quiet=json)
    entry = outcome["entry"]
    if not json:
        _show_outcome(outcome)
    if entry is not None and conversation is not None:
        outcome["call"] = _call(chosen, entry["id"], conversation, url)
    if json:
        out.print_json(data=outcome)
    elif conversation is not None and entry is not None:
        show_result(out, outcome["call"])
    if entry is None:
        raise RefusedError(outcome["error"]["message"])


@app.command("call")
@takes_settings("state_dir")
def call(
    chosen: ChosenSettings, adapter: Reference, text: CallInput, url: PlatformUrl = None, json: PrintJson = False
) -> None:
    """Call an adapter with a conversation and show its answer; an intrinsic's also as a value."""
    result = _call(chosen, adapter, conversation_of(text), url)
    if json:
        out.print_json(data=result)
    else:
        show_result(out, result)


@app.command("ls")
@takes_settings("state_dir")
def list_adapters(
    chosen: ChosenSettings,
    prefix: Annotated[str, typer.Argument(help="Beginning of their names.")] = "",
    state: Annotated[str | None, typer.Option(help="State that they are in, such as retired.")] = None,
    kind: Annotated[str | None, typer.Option(help="lora or alora.")] = None,
    owner: Annotated[str | None, typer.Option(help="Tenant that they belong to.")] = None,
    label: Labels = None,
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """List the versions of adapters, and where each is loaded."""
    labels = [f"{name}={value}" for name, value in _labels(label).items()]
    query = {"prefix": prefix or None, "state": state, "kind": kind, "owner": owner, "label": labels, "limit": PAGE}
    with _platform(chosen, url) as client:
        found = _all_pages(client, {name: value for name, value in query.items() if value})
    if json:
        out.print_json(data=found)
    else:
        show_adapters(out, found)


@app.command("show")
@takes_settings("state_dir")
def show(chosen: ChosenSettings, adapter: Reference, url: PlatformUrl = None, json: PrintJson = False) -> None:
    """Show all that is known of an adapter: its versions with their history, where they are, and its aliases."""
    with _platform(chosen, url) as client:
        record = ask_as_admin(client, "GET", _path(adapter))
    if json:
        out.print_json(data=record)
        return
    show_record(out, record)
    for entry in record["versions"]:
        show_entry(out, entry)


@app.command("validate")
@takes_settings("state_dir", "model", "max_lora_rank")
def validate(
    chosen: ChosenSettings,
    source: Source,
    name: Annotated[str, typer.Option(help="Name that it would get.")] = "adapter",
    sha256: Sha256 = "",
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Check an adapter as add would, and keep nothing of it; here, if no platform runs. All problems are shown."""
    if url is None and not _runs(chosen):
        # Brings what makes prompts, which other commands do not wait for.
        from aloraserve_services.cli.local_check import check_here

        report = check_here(chosen.load(), _source(source), sha256)
    else:
        body = {"name": name, "source": _source(source), "weights_sha256": sha256}
        with _platform(chosen, url) as client:
            report = ask_as_admin(client, "POST", "/v1/adapter-checks", body, timeout_s=CHECK_TIMEOUT_S)
    if json:
        out.print_json(data=report)
    else:
        show_report(out, report)
    if not report["accepted"]:
        raise RefusedError("the adapter is not accepted")


@app.command("alias")
@takes_settings("state_dir")
def alias(
    chosen: ChosenSettings,
    name: AliasName,
    target: Annotated[str, typer.Argument(help="Version that it is to point to; none: show the aliases.")] = "",
    share: Annotated[
        float | None, typer.Option(help="Give the target this share of its conversations, as a canary; 0 ends it.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias; versions stay.")] = False,
    reason: Reason = "",
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Show an adapter's aliases, point one to a version in one step for all gateways, or remove it."""
    if remove and target:
        raise SettingsError("--remove and a target exclude each other; give one of them")
    with _platform(chosen, url) as client:
        if remove:
            record = ask_as_admin(client, "DELETE", _alias_path(name))
        elif target:
            body = {"target": target, "share": share, "reason": reason}
            record = ask_as_admin(client, "PUT", _alias_path(name), body)
        else:
            record = ask_as_admin(client, "GET", _path(name))
    _print_aliases(record, json)


@app.command("rollback")
@takes_settings("state_dir")
def rollback(
    chosen: ChosenSettings, name: AliasName, reason: Reason = "", url: PlatformUrl = None, json: PrintJson = False
) -> None:
    """Point an alias where it pointed before."""
    with _platform(chosen, url) as client:
        record = ask_as_admin(client, "POST", f"{_alias_path(name)}/rollback", {"reason": reason})
    _print_aliases(record, json)


@app.command("retire")
@takes_settings("state_dir")
def retire(
    chosen: ChosenSettings, adapter: Reference, reason: Reason = "", url: PlatformUrl = None, json: PrintJson = False
) -> None:
    """Have an adapter, or one version, take no new calls; those in flight end on it."""
    with _platform(chosen, url) as client:
        record = ask_as_admin(client, "POST", f"{_path(adapter)}/retire", {"reason": reason})
    _print_record(record, json)


@app.command("rm")
@takes_settings("state_dir")
def remove(
    chosen: ChosenSettings,
    adapter: Reference,
    force: Annotated[bool, typer.Option("--force", help="Also if it is in use.")] = False,
    reason: Reason = "",
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Delete an adapter, or one version; one in use is refused unless forced."""
    query = f"?force={'true' if force else 'false'}&reason={quote(reason, safe='')}"
    with _platform(chosen, url) as client:
        record = ask_as_admin(client, "DELETE", _path(adapter) + query)
    _print_record(record, json)


@app.command("export")
@takes_settings("state_dir")
def export(
    chosen: ChosenSettings,
    file: Annotated[Path, typer.Argument(help="Where to; the weights stay in the store.")],
    url: PlatformUrl = None,
) -> None:
    """Write the whole catalog to a file: names, versions, aliases and their history."""
    with _platform(chosen, url) as client:
        catalog = ask_as_admin(client, "GET", "/v1/adapter-catalog")
    file.write_text(dumps(catalog, indent=1), "utf-8")
    report_written(file)


@app.command("import")
@takes_settings("state_dir")
def import_catalog(
    chosen: ChosenSettings,
    file: Annotated[Path, typer.Argument(help="That export wrote.")],
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave names that are there as they are.")
    ] = False,
    url: PlatformUrl = None,
    json: PrintJson = False,
) -> None:
    """Put the adapters of a file into the catalog; their weights have to be in the store."""
    content = file.read_bytes()
    path = f"/v1/adapter-catalog?skip_existing={'true' if skip_existing else 'false'}"
    with _platform(chosen, url) as client:
        result = ask_as_admin(client, "POST", path, content, timeout_s=CHECK_TIMEOUT_S)
    if json:
        out.print_json(data=result)
    else:
        out.print(f"imported {len(result['imported'])} names, skipped {len(result['skipped'])}")


@contextlib.contextmanager
def _platform(chosen: ChosenSettings, url: str | None) -> Iterator[httpx.Client]:
    settings = chosen.load()
    with reaching(settings.state_dir, url, admin_authorization(settings)) as client:
        yield client


def _show_outcome(outcome: dict[str, Any]) -> None:
    if outcome["entry"] is not None:
        out.print(f"registered {outcome['entry']['id']}", markup=False, soft_wrap=True)
    elif outcome["report"] is not None:
        show_report(out, outcome["report"])


def _call(chosen: ChosenSettings, name: str, conversation: dict[str, Any], url: str | None) -> dict[str, Any]:
    settings = chosen.load()
    with reaching(settings.state_dir, url, caller_authorization(settings)) as client:
        return call_adapter(client, name, conversation)


def _runs(chosen: ChosenSettings) -> bool:
    return run_file.read(chosen.load().state_dir) is not None


def _all_pages(client: httpx.Client, query: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = ask_as_admin(client, "GET", f"/v1/adapters?{httpx.QueryParams(query | {'after': after})}")
        found += page["data"]
        after = page["next"]
        if not after:
            return found


def _source(text: str) -> str:
    """Return a source as the platform takes it: a folder is absolute there."""
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _labels(texts: list[str] | None) -> dict[str, str]:
    found = [text.partition("=") for text in texts or []]
    if wrong := next((label for label, separator, _ in found if not separator), None):
        raise SettingsError(f"label is {wrong[:80]!r}; name=value is accepted")
    return {label: value for label, _, value in found}


def _path(adapter: str) -> str:
    return f"/v1/adapters/{quote(adapter, safe='@')}"


def _alias_path(name: str) -> str:
    adapter, _, alias = name.partition("@")
    return f"{_path(adapter)}/aliases/{quote(alias or 'current', safe='')}"


def _print_aliases(record: dict[str, Any], json: bool) -> None:
    if json:
        out.print_json(data=record["aliases"])
    else:
        show_aliases(out, record)


def _print_record(record: dict[str, Any], json: bool) -> None:
    if json:
        out.print_json(data=record)
    elif record["versions"]:
        show_adapters(out, record["versions"])
    else:
        out.print(f"nothing is left of {record['name']}", markup=False, soft_wrap=True)
