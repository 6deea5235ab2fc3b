"""Whatever the API's description allows, or forbids, gets a clear answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry
from support.api_fuzz import fuzz
from support.http_server import serving

from aloraserve_services.gateway.deployment import Gateway

WITHOUT_REDIS = ("/v1/replicas", "/v1/savings", "/v1/usage", "/v1/metrics/targets", "/v1/admin")
CASES = 150


# The server on another thread draws random numbers while a request is made up.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
async def test_no_request_that_the_description_leads_to_is_an_internal_error(
    open_gateway: Callable[..., Gateway],
) -> None:
    app = open_gateway(CollectorRegistry()).http_app()
    async with serving(app) as served:

        def run() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30, trust_env=False) as client:
                outcome = fuzz(client, CASES, models=["base", "safety"], unavailable=WITHOUT_REDIS)
            assert outcome.faults == []
            assert outcome.cases > CASES / 2
            assert {200, 400, 404} <= {status for _, status in outcome.statuses}

        await asyncio.to_thread(run)
