"""The names of a fleet's keys, and how many slots of a cluster they are spread over."""

from __future__ import annotations

CLUSTER_SHARDS = 64
"""Into how many slots a cluster's chains are spread; every gateway and replica of a fleet has to agree."""


def milliseconds(seconds: float) -> int:
    """Return a time as servers take it, at least 1."""
    return max(1, round(seconds * 1000))


def fleet_prefix(namespace: str) -> str:
    """Return what every key of a fleet begins with; its hash tag keeps them in one slot of a cluster.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """
    if not namespace or set(namespace) & set("{}"):
        raise ValueError(f"namespace is {namespace!r}; a non-empty string without braces is needed")
    return f"{{aloraserve:{namespace}}}:"
