"""Questions to another replica over its channel: encrypted between machines, as the fleet's calls are."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aloraserve_services.channel.connection import ReplicaConnection, connect
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.messages import Hottest, Prefill


async def ask_hottest(endpoint: Endpoint) -> bytes:
    """Return a replica's hottest prefixes, packed.

    Args:
        endpoint: of the replica.

    Raises:
        ChannelVersionError: it speaks another version.
        ChannelLostError: it cannot be reached, or is gone.
        CallFailedError: it could not answer.
    """
    async with _connected(endpoint) as connection:
        return bytes(await connection.ask(Hottest))


async def ask_prefill(endpoint: Endpoint, prefixes: bytes, budget_s: float) -> int:
    """Have a replica compute prefixes; return how many it has then. What it has not begun ends with this.

    Args:
        endpoint: of the replica.
        prefixes: packed.
        budget_s: for all of them.

    Raises:
        ChannelVersionError: it speaks another version.
        ChannelLostError: it cannot be reached, or is gone.
        CallFailedError: it could not answer.
    """
    async with _connected(endpoint) as connection:
        return int(await connection.ask(Prefill, prefixes, budget_s))


@contextlib.asynccontextmanager
async def _connected(endpoint: Endpoint) -> AsyncIterator[ReplicaConnection]:
    connection = await connect(endpoint, lambda: None)
    try:
        yield connection
    finally:
        connection.close("the question is over")
