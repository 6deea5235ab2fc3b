"""Replicas that this process can reach, as Serve last reported them.

A module of its own: Serve copies the request router's class together with its module's globals into the gateway, so
what the class shares with the gateway has to be imported when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable

_known: dict[tuple[str, str], tuple[str, ...]] = {}


def note_replicas(deployment: str, app: str, replicas: Iterable[str]) -> None:
    """Replace the ids of a deployment's running replicas."""
    _known[deployment, app] = tuple(sorted(replicas))


def known_replicas(deployment: str, app: str) -> tuple[str, ...]:
    """Return the ids of a deployment's running replicas, sorted."""
    return _known.get((deployment, app), ())
