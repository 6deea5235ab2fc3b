"""A registration as it goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from aloraserve.client.events import EventReader
from aloraserve_services.cli.admin_api import check_answer
from aloraserve_services.cli.console import out

EVENT_TIMEOUT_S = 30.0
"""The platform says twice in a second how far it is."""


def register(client: httpx.Client, body: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Register an adapter, show how far it is, and return what came of it.

    Args:
        client: of the platform.
        body: of the request.
        is_quiet: whether nothing is shown.

    Raises:
        RefusedError: the request is refused.
        StartError: something else than the platform answers.
    """
    with client.stream("POST", "/v1/adapters", json=body | {"stream": True}, timeout=EVENT_TIMEOUT_S) as answer:
        if answer.status_code != 200:
            answer.read()
        check_answer(client, answer)
        events = _events(answer)
        if is_quiet:
            return [*events][-1]
        return _follow_with_bar(events) if out.is_terminal else _follow_in_lines(events)


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    reader = EventReader()
    for piece in answer.iter_bytes():
        yield from map(json.loads, reader.read(piece))


def _follow_in_lines(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Print a line for each stage."""
    stage = ""
    for event in events:
        if event["stage"] != stage and event["ended_at"] is None:
            stage = event["stage"]
            out.print(
                f"{stage} {event['source'] if stage == 'fetching' else event['name']}", markup=False, soft_wrap=True
            )
    return event


def _follow_with_bar(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("")
        for event in events:
            bar.update(
                task, description=event["stage"], completed=event["bytes_done"], total=event["bytes_total"] or None
            )
    return event
