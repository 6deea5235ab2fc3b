"""A simulated engine and what makes its calls: bodies in, chunks out."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aloraserve.adapters import AdapterRegistry
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants.base import UNTENANTED
from aloraserve.wire import ChatRequest, CompletionRequest
from aloraserve_services.engine.opening import open_simulated
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.plan import FleetPlan
from aloraserve_services.prompts import open_prompts


@dataclass(slots=True)
class TokenCounts:
    """Prompt tokens of all calls so far, and those of them that were cached, as vLLM counts both."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0


class BareEngine:
    """See the module's docstring. For one event loop, on which :meth:`open` ran.

    Args:
        plan: of the engine.
        engine: simulated.
        registry: the adapters that it has loaded.

    Attributes:
        engine: likewise.
        plan: likewise.
        registry: likewise.
        tokens: counted.
    """

    def __init__(self, plan: FleetPlan, engine: SimulatedEngine, registry: AdapterRegistry) -> None:
        from transformers import AutoTokenizer

        self.plan = plan
        self.engine = engine
        self.registry = registry
        self.tokens = TokenCounts()
        tokenizer = AutoTokenizer.from_pretrained(str(plan.model_path), local_files_only=True)
        self._prompts = open_prompts(plan, tokenizer, registry)

    @classmethod
    async def open(cls, plan: FleetPlan) -> BareEngine:
        """Start the engine on the running event loop and load its adapters.

        Args:
            plan: with a calibration.

        Raises:
            SettingsError: the adapters' folder cannot be read.
            StartError: the plan is for vLLM's engine.
        """
        engine, _ = open_simulated(plan)
        registry = plan.open_registry()
        await registry.begin()
        for version in registry.all():
            await engine.add_adapter(version)
        return cls(plan, engine, registry)

    async def request(self, body: ChatRequest | CompletionRequest, request_id: str | None) -> GenerationRequest:
        """Return the request of a body.

        Args:
            body: validated.
            request_id: as the client gave it.

        Raises:
            UnknownModelError: the model is not served.
            InvalidRequestError: the prompt is empty or too long, or the template refuses it.
        """
        origin = Origin(request_id or uuid.uuid4().hex, UNTENANTED, time.perf_counter())
        if isinstance(body, ChatRequest):
            _check_is_one_call(body)
            return await self._prompts.chat(body, origin)
        return await self._prompts.completion(body, origin)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[EngineChunk]:
        """Yield the answer's chunks; closing the iterator aborts the call.

        Raises:
            InvalidRequestError: the engine refuses the call.
        """
        # Two calls of one client may carry one id; the engine knows each by an id of its own.
        call = request.engine_call(uuid.uuid4().hex)
        counts, is_first = self.tokens, True
        async with contextlib.aclosing(self.engine.generate(call, self._priority(call))) as replies:
            async for reply in replies:
                if isinstance(reply, EngineRefusal):
                    raise reply.error()
                assert isinstance(reply, EngineChunk)
                if is_first:
                    counts.prompt += request.prompt_tokens
                    counts.cached += reply.cached_tokens
                    is_first = False
                counts.generated += reply.tokens
                yield reply

    def _priority(self, call: EngineCall) -> int:
        """Return a call's place in the engine's queue, as a replica of the platform decides it."""
        assert self.plan.calibration is not None
        cached, prompt = self.engine.num_cached_tokens(call.keys), len(call.token_ids)
        prefill_s = self.plan.calibration.prefill.model.seconds(min(cached, prompt - 1), prompt)
        return self.plan.scheduling.priority(prefill_s, time.monotonic())


def _check_is_one_call(body: ChatRequest) -> None:
    for field in ("adapters", "guard", "intrinsics"):
        if getattr(body, field):
            raise InvalidRequestError(f"{field!r} needs a gateway; an engine by itself makes one call", param=field)
