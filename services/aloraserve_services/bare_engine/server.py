"""A bare engine's server: one process, one event loop, uvicorn."""

from __future__ import annotations

import asyncio

import uvicorn

from aloraserve_services.bare_engine.engine import BareEngine
from aloraserve_services.bare_engine.routes import EngineRoutes
from aloraserve_services.plan import FleetPlan

BACKLOG = 2048


def serve_engine(plan: FleetPlan) -> None:
    """Serve a simulated engine at the plan's host and port until this process is told to stop.

    Args:
        plan: with a calibration.

    Raises:
        SettingsError: the adapters' folder cannot be read.
        StartError: the plan is for vLLM's engine.
    """
    settings = plan.settings
    # What each request would cost beyond its answer is left out: this server is there to be measured against.
    config = uvicorn.Config(
        _unopened,
        host=settings.host,
        port=settings.port,
        backlog=BACKLOG,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )
    loop_factory = config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(plan, config))


async def _serve(plan: FleetPlan, config: uvicorn.Config) -> None:
    bare = await BareEngine.open(plan)
    config.app = EngineRoutes(bare).app()
    try:
        await uvicorn.Server(config).serve()
    finally:
        bare.engine.shutdown()


async def _unopened(scope: object, receive: object, send: object) -> None:
    raise RuntimeError("the engine is not open yet")
