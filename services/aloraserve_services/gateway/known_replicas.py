"""Replicas that this process can reach, as Serve last reported them.

A module of its own: Serve copies the request router's class together with its module's globals into the gateway, so
what the class shares with the gateway has to be imported when it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

_known: dict[tuple[str, str], tuple[str, ...]] = {}
_watchers: list[Callable[[], object]] = []


def note_replicas(deployment: str, app: str, replicas: Iterable[str]) -> None:
    """Replace the ids of a deployment's running replicas."""
    _known[deployment, app] = tuple(sorted(replicas))
    for on_change in list(_watchers):
        on_change()


def known_replicas(deployment: str, app: str) -> tuple[str, ...]:
    """Return the ids of a deployment's running replicas, sorted."""
    return _known.get((deployment, app), ())


@contextlib.contextmanager
def watching(on_change: Callable[[], object]) -> Iterator[None]:
    """Have ``on_change`` called when the replicas may have changed, on a thread of Serve's, until the context ends."""
    _watchers.append(on_change)
    try:
        yield
    finally:
        _watchers.remove(on_change)
