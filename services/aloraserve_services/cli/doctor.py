"""``aloraserve doctor``: what is wrong with a deployment, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings
from aloraserve_services.cli.admin_api import admin_authorization
from aloraserve_services.cli.console import EXIT_FAILED, out
from aloraserve_services.cli.options import ChosenSettings, PlatformUrl, PrintJson, takes_settings
from aloraserve_services.cli.reaching import client_of
from aloraserve_services.doctor import (
    clock,
    environment,
    machine,
    network,
    redis_server,
    running_platform,
    secrets,
    versions,
)
from aloraserve_services.doctor.base import Check, Finding, Level, examine, failed, ok, skipped
from aloraserve_services.local import run_file

STYLES = {Level.OK: "green", Level.SKIPPED: "dim", Level.WARNING: "yellow", Level.FAILED: "red"}
MAX_TIMEOUT_S = 300


@takes_settings("state_dir", "engine", "host", "port", "grpc_port", "redis_url")
def doctor(
    chosen: ChosenSettings,
    url: PlatformUrl = None,
    json: PrintJson = False,
    timeout: Annotated[float, typer.Option(help="Seconds that each check has.", min=0.1, max=MAX_TIMEOUT_S)] = 15.0,
) -> None:
    """Check a deployment from this machine, and say what to do about what is wrong; nothing is changed."""
    findings = examine(checks_for(chosen, url), timeout)
    if json:
        out.print_json(data=as_json(findings))
    else:
        show(out, findings)
    if any(finding.level is Level.FAILED for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def checks_for(chosen: ChosenSettings, url: str | None) -> list[Check]:
    """Return the checks in the order that they are shown in; with wrong settings, those that need none."""
    surroundings = [
        Check("python", versions.look_at_python),
        Check("packages", versions.look_at_packages),
        Check("proxies", environment.look_at_proxies),
        Check("variables", environment.look_at_variables),
        Check("ray token", environment.look_at_ray_token),
        Check("limits", machine.look_at_limits),
        Check("shared memory", machine.look_at_shared_memory),
        Check("temporary files", machine.look_at_temporary_files),
        Check("clock", clock.look_at_clock),
    ]
    try:
        settings = chosen.load()
    except SettingsError as error:
        wrong = failed("settings", error.message, "docs/reference/configuration.md has what is accepted")
        return [Check("settings", lambda: [wrong]), *surroundings]
    right = ok("settings", "accepted")
    return [
        Check("settings", lambda: [right]),
        *surroundings,
        Check("vllm", partial(versions.look_at_engine, settings)),
        Check("processor", partial(machine.look_at_processor, settings)),
        Check("gpu", partial(machine.look_at_gpus, settings)),
        Check("disks", partial(machine.look_at_disks, settings)),
        Check("files of secrets", partial(secrets.look_at_secrets, settings, chosen.config)),
        Check("keys", partial(secrets.look_at_keys, settings)),
        Check("redis", partial(redis_server.look_at_redis, settings)),
        *_of_platform(settings, url, admin_authorization(settings)),
    ]


def _of_platform(settings: Settings, url: str | None, headers: Mapping[str, str]) -> list[Check]:
    running = None if url is not None else run_file.read(settings.state_dir)
    if url is None and running is None:
        nothing = skipped("platform", "none runs in the state folder; --url names one elsewhere")
        return [Check("ports", partial(network.look_at_ports, settings)), Check("platform", lambda: [nothing])]
    certificate = running.certificate if running else ""
    address = url or (running.url if running else "")

    def over_http() -> Iterator[Finding]:
        with client_of(address, headers, certificate=certificate, is_elsewhere=url is not None) as client:
            yield from running_platform.look_at_http(client, settings)

    found = [Check("platform", over_http)]
    if settings.grpc_port is not None:
        own = Path(certificate) if certificate else None
        found.append(Check("grpc", partial(running_platform.look_at_grpc, address, settings.grpc_port, own)))
    return found


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as plain values."""
    levels = Counter(finding.level for finding in findings)
    return {
        "ok": not levels[Level.FAILED],
        "counts": {str(level): levels[level] for level in Level},
        "findings": [asdict(finding) for finding in findings],
    }


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print a table, then what to do about each finding that asks for something."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        level = Text(finding.level, style=STYLES[finding.level])
        table.add_row(level, Text(finding.check, no_wrap=True), Text(finding.found))
        if finding.remedy:
            table.add_row("", "", Text(f"do: {finding.remedy}", style=STYLES[finding.level]))
    console.print(table)
    levels = Counter(finding.level for finding in findings)
    console.print(", ".join(f"{levels[level]} {level}" for level in reversed(Level) if levels[level]))
