"""The contract of the list of metrics endpoints: processes register themselves, Prometheus asks for the list.

Entries expire unless they are renewed, and there are at most ``MAX_ENDPOINTS``. Every method may be called from any
number of processes at once. It raises :class:`~aloraserve.errors.DirectoryUnavailableError` when the backend is gone or
slower than its timeout.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

ENDPOINT_TTL_S = 30.0
MAX_ENDPOINTS = 4096
MAX_ENDPOINT_CHARACTERS = 255


class MetricsEndpoint(NamedTuple):
    """Where a process of the fleet serves its metrics.

    Args:
        role: "gateway", "engine" or another short word.
        name: the process's own among those of its role, the same after a restart.
        address: host and port of its metrics, as the whole fleet reaches them.
    """

    role: str
    name: str
    address: str


class EndpointRegistry(Protocol):
    """See the module's docstring."""

    async def register_endpoint(self, endpoint: MetricsEndpoint, *, ttl_s: float = ENDPOINT_TTL_S) -> None:
        """List an endpoint for ``ttl_s``; an earlier one of the same role and name makes way.

        One too many is left out; those that are listed stay.

        Raises:
            ValueError: a part is empty or longer than ``MAX_ENDPOINT_CHARACTERS``.
        """
        ...

    async def endpoints(self) -> list[MetricsEndpoint]:
        """Return the listed endpoints, sorted by role and name."""
        ...

    async def close(self) -> None:
        """Release connections. Further calls are undefined."""
        ...


def check_endpoint(endpoint: MetricsEndpoint) -> None:
    """Raise ValueError unless :meth:`EndpointRegistry.register_endpoint` accepts the endpoint."""
    for part, value in zip(MetricsEndpoint._fields, endpoint, strict=True):
        if not 1 <= len(value) <= MAX_ENDPOINT_CHARACTERS:
            raise ValueError(f"{part} is {value[:40]!r}; 1 to {MAX_ENDPOINT_CHARACTERS} characters are accepted")
