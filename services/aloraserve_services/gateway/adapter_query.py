"""Queries of the routes of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from starlette.requests import Request

from aloraserve.adapters.catalog import AdapterState, EntryQuery
from aloraserve.adapters.catalog.query import DEFAULT_LIMIT, MAX_LIMIT
from aloraserve.errors import InvalidRequestError

_REPEATED = ("label",)
LISTED = ("prefix", "state", "kind", "owner", "label", "limit", "after")

Choice = TypeVar("Choice", bound=StrEnum)


class _Kind(StrEnum):
    LORA = "lora"
    ALORA = "alora"


def entry_query(found: Mapping[str, str], labels: Mapping[str, str]) -> EntryQuery:
    """Return what is asked for by a list's query.

    Args:
        found: its parameters, of those in :data:`LISTED`.
        labels: that versions must have.

    Raises:
        InvalidRequestError: a value is not accepted.
    """
    limit = found.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= MAX_LIMIT):
        raise InvalidRequestError(f"limit is {limit[:20]!r}; 1 to {MAX_LIMIT} are accepted", param="limit")
    kind = _choice(found, "kind", _Kind)
    return EntryQuery(
        prefix=found.get("prefix", ""),
        state=_choice(found, "state", AdapterState),
        kind=None if kind is None else kind.value,
        owner=found.get("owner"),
        labels=labels,
        cursor=found.get("after", ""),
        limit=int(limit),
    )


def checked_query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """Return a query's parameters; of those of :data:`_REPEATED` the last.

    Raises:
        InvalidRequestError: one is not known, or is there twice.
    """
    for name in request.query_params:
        if name not in known:
            raise InvalidRequestError(f"{name[:40]!r} is not a known parameter; accepted are {', '.join(known)}")
        if name not in _REPEATED and len(request.query_params.getlist(name)) > 1:
            raise InvalidRequestError(f"{name!r} is in the query twice; once is accepted", param=name)
    return dict(request.query_params)


def _choice(query: Mapping[str, str], name: str, kind: type[Choice]) -> Choice | None:
    try:
        return kind(query[name]) if name in query else None
    except ValueError:
        accepted = ", ".join(each.value for each in kind)
        raise InvalidRequestError(f"{name} is {query[name][:40]!r}; accepted are {accepted}", param=name) from None


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return a parameter that is true or false; false if it is missing."""
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise InvalidRequestError(f"{name} is {value[:40]!r}; true or false is accepted", param=name)
    return value == "true"


def label_query(request: Request) -> dict[str, str]:
    """Return the labels of a list's query.

    Raises:
        InvalidRequestError: one is not a name and a value.
    """
    return dict(_label(text) for text in request.query_params.getlist("label"))


def _label(text: str) -> tuple[str, str]:
    label, separator, value = text.partition("=")
    if not separator:
        raise InvalidRequestError(f"label is {text[:80]!r}; name=value is accepted", param="label")
    return label, value
