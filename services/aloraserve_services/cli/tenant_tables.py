"""Keys and tenants as tables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "uncached_tokens_per_minute",
    "concurrency",
    "weight",
    "priority",
)


def show_keys(console: Console, keys: Sequence[dict[str, Any]]) -> None:
    """Print keys, one a row."""
    table = _table("keys", "id", "tenant", "roles", "label", "state", "created", "expires")
    for key in keys:
        table.add_row(
            key["id"],
            key["tenant"] or "-",
            ", ".join(key["roles"]),
            escape(key["label"]) or "-",
            key["state"],
            _time(key["created_at"]),
            _time(key["expires_at"]),
        )
    console.print(table)


def show_tenants(console: Console, tenants: Sequence[dict[str, Any]]) -> None:
    """Print tenants and their limits, one a row."""
    table = _table(
        "tenants", "tenant", "keys", "requests/min", "tokens/min", "uncached/min", "at once", "weight", "priority"
    )
    for tenant in tenants:
        active = sum(key["state"] == "active" for key in tenant["keys"])
        limits = (tenant["limits"][name] for name in _LIMITS)
        table.add_row(tenant["name"], str(active), *("-" if limit is None else f"{limit:g}" for limit in limits))
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        # What other commands take is whole also on a narrow terminal and in a pipe.
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "tenant"))
    return table


def _time(at: float | None) -> str:
    if at is None:
        return "-"
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")
