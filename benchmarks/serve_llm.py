"""Ray Serve LLM with this project's simulated engines: ``python -m benchmarks.serve_llm --port N``.

It runs in an environment that has pyarrow beside this project's packages. Ray Serve LLM takes another engine class by
an environment variable; the one here is the engine that bare servers and this platform's replicas have, so what differs
is the way to it. Real engines are Ray Serve LLM's own.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aloraserve.settings import load_settings
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve_services.bare_engine.engine import BareEngine
from aloraserve_services.bare_engine.routes import EngineRoutes
from aloraserve_services.gateway.answers import Answer, ChatAnswer, CompletionAnswer
from aloraserve_services.models.untrained import twin_adapters
from aloraserve_services.plan import make_plan

ENGINE_VARIABLE = "RAYLLM_VLLM_ENGINE_CLS"
DIRECT = {
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
"""What Ray's own documents name as its fastest way: HAProxy sends a call straight to the engine's replica."""
APP = "llm"
ENGINE_KWARGS = {"enforce_eager": True, "distributed_executor_backend": "uni", "enable_prefix_caching": True}


class ServeEngine:
    """A simulated engine as Ray Serve LLM calls one; its settings are this process's environment.

    Args:
        llm_config: Ray Serve LLM's; nothing of it matters to this engine.
    """

    def __init__(self, llm_config: Any) -> None:
        self._bare: BareEngine

    async def start(self) -> None:
        """Start the engine."""
        settings = load_settings(None, engine="simulated")
        plan = make_plan(settings, adapters_dir=functools.partial(twin_adapters, settings.state_dir))
        self._bare = await BareEngine.open(plan)

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """Yield a chat's events, or its whole answer."""
        from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse

        body = parse_body(ChatRequest, request.model_dump_json(exclude_unset=True).encode())
        async for part in self._answer(ChatAnswer, body, ChatCompletionResponse):
            yield part

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """Yield a completion's events, or its whole answer."""
        from ray.llm._internal.serve.core.configs.openai_api_models import CompletionResponse

        body = parse_body(CompletionRequest, request.model_dump_json(exclude_unset=True).encode())
        async for part in self._answer(CompletionAnswer, body, CompletionResponse):
            yield part

    async def build_asgi_app(self) -> Any:
        """Return the HTTP application that calls go to without an ingress."""
        from fastapi import FastAPI

        app = FastAPI()
        app.mount("/", EngineRoutes(self._bare).app())
        return app

    async def check_health(self) -> None:
        """Raise if the engine is dead."""
        await self._bare.engine.check_health()

    def routing_stats(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    async def reset_prefix_cache(self) -> None:
        """Forget what is cached."""
        await self._bare.engine.reset_prefix_cache()

    async def _answer(
        self, kind: type[Answer], body: ChatRequest | CompletionRequest, whole: Any
    ) -> AsyncIterator[Any]:
        request = await self._bare.request(body, None)
        answer, chunks = kind([request]), self._bare.generate(request)
        if request.is_streamed:
            async for event in answer.stream(chunks, include_usage=body.include_usage):
                yield event
        else:
            yield whole.model_validate_json(await answer.whole(chunks))


def run(port: int, replicas: int, model: Path, *, is_real: bool) -> None:
    """Serve until this process is told to stop.

    Args:
        port: of the HTTP API.
        replicas: engines.
        model: its folder; its name is the served name.
        is_real: whether the engines are vLLM's.
    """
    if not is_real:
        os.environ[ENGINE_VARIABLE] = f"{__spec__.name}.{ServeEngine.__name__}"
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    ray.init(address="local", include_dashboard=False, num_cpus=8 * replicas, logging_level="ERROR")
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    config = LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": str(model)},
        deployment_config={"num_replicas": replicas, "max_ongoing_requests": 1000},
        placement_group_config={"bundles": [{"CPU": 1}]},
        engine_kwargs=_engine_kwargs() if is_real else {},
        log_engine_metrics=False,
    )
    serve.run(build_openai_app({"llm_configs": [config]}), name=APP, blocking=False)
    while True:
        time.sleep(1)


def _engine_kwargs() -> dict[str, Any]:
    """Return the engine arguments that this platform's replicas have on a CPU."""
    settings = load_settings(None)
    return ENGINE_KWARGS | {
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "block_size": settings.block_tokens,
        "max_num_seqs": settings.max_num_seqs,
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * (1 << 30)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--real", action="store_true")
    given = parser.parse_args()
    run(given.port, given.replicas, given.model, is_real=given.real)
