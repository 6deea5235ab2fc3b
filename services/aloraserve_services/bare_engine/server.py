"""Bare engines' servers: a process, an event loop and uvicorn for each."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess

import uvicorn

from aloraserve_services.bare_engine.engine import BareEngine
from aloraserve_services.bare_engine.routes import EngineRoutes
from aloraserve_services.http_server.listening import BACKLOG
from aloraserve_services.plan import FleetPlan

END_S = 10.0


def serve_engines(plan: FleetPlan, count: int) -> None:
    """Serve simulated engines until this process is told to stop.

    Args:
        plan: with a calibration; the first engine listens on its port, the others on those that follow.
        count: how many.

    Raises:
        SettingsError: the adapters' folder cannot be read.
        StartError: the plan is for vLLM's engine.
    """
    # Forked engines share what takes longest to start: the tokenizer's library.
    import transformers  # noqa: F401

    with contextlib.ExitStack() as stack:
        for number in range(1, count):
            stack.enter_context(_forked(_at_port(plan, plan.settings.port + number)))
        serve_engine(plan)


def _at_port(plan: FleetPlan, port: int) -> FleetPlan:
    return replace(plan, settings=plan.settings.model_copy(update={"port": port}))


@contextlib.contextmanager
def _forked(plan: FleetPlan) -> Iterator[BaseProcess]:
    """Serve an engine in a process of its own for the time of the context."""
    process = multiprocessing.get_context("fork").Process(target=serve_engine, args=(plan,), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(END_S)


def serve_engine(plan: FleetPlan) -> None:
    """Serve one simulated engine at the plan's host and port until this process is told to stop.

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
