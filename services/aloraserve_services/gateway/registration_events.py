"""A registration as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aloraserve.adapters.management import Registration
from aloraserve.wire.adapter_answers import outcome_json
from aloraserve_services.gateway.answers.events import encode, sse_event

EVENT_EVERY_S = 0.5
"""Between two events; a client that hears nothing for long knows that the connection is gone."""


async def registration_events(registration: Registration) -> AsyncIterator[bytes]:
    """Yield how far a registration is until it ends, and then what came of it; it goes on if nobody listens."""
    ending = asyncio.ensure_future(registration.finished())
    while not ending.done():
        yield sse_event(encode(registration.as_dict()))
        await asyncio.wait({ending}, timeout=EVENT_EVERY_S)
    # Read here: what it failed of is in the outcome.
    ending.exception()
    yield sse_event(encode(outcome_json(registration)))
