"""``make bench-call-cost``: CPU time of each step that a gateway takes for a call, apart from HTTP and the replicas.

The steps run in this process, one at a time, on the parts that a gateway has: the packaged model's tokenizer, a real
Redis with replicas that publish, and a pool that answers at once in the place of engines. CPU time is this process's,
all threads; Redis counts its own. What one step leaves (parsed bodies, prompts) the next one takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as json_module
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from prometheus_client import CollectorRegistry

from aloraserve.adapters import AdapterVersion
from aloraserve.routing.policies import make_policy
from aloraserve.routing.receipts import Outcome, ReceiptRing
from aloraserve.routing.router import Router
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.settings import default_state_dir
from aloraserve.telemetry.directory import ObservedDirectory
from aloraserve.telemetry.tracing import Tracing
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body
from aloraserve_services.cli.console import clearly, out
from aloraserve_services.cli.options import JsonFile
from aloraserve_services.gateway.answers import ChatAnswer
from aloraserve_services.gateway.call_metrics import CallMetrics
from aloraserve_services.gateway.call_spans import CallSpans
from aloraserve_services.gateway.headers import serving_headers
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.local.redis_server import embedded_redis
from aloraserve_services.models.model_files import ensure_smollm2
from benchmarks.harness.command import run_command
from benchmarks.harness.redis_server import server_info
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.synthetic_fleet import LEASE_S, SPACE, heartbeats, open_directory, replica_name, replica_state

BASE = "base"
CALL_TARGET_US, CHUNK_TARGET_US = 2000.0, 30.0
WORDS_PER_TURN = 40
MAX_BODY_BYTES = 1 << 20
STREAM_CHUNKS = 64
WARM_UP_S = 1.0
CALLS_PER_HEARTBEAT = 20
LOOKUP_BUDGET_S = 0.1


@clearly
def bench_call_cost(
    prompt_tokens: Annotated[int, typer.Option(min=50, help="About how long a new conversation is.")] = 500,
    replicas: Annotated[int, typer.Option(min=1, max=512, help="Replicas in the directory.")] = 6,
    calls: Annotated[int, typer.Option(min=20, help="Calls of each kind that are measured.")] = 400,
    json: JsonFile = None,
) -> None:
    """Measure the CPU time of each step of a call in the gateway, without HTTP and without engines."""
    from transformers import AutoTokenizer

    model = ensure_smollm2(Path(default_state_dir()), dtype="bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    with embedded_redis() as redis, heartbeats(redis.url, replicas):
        figures = uvloop.run(CallCost(redis.url, tokenizer, prompt_tokens, calls, replicas).measure())
    show_figures(out, "CPU time in the gateway, without HTTP and engines", figures)
    write_json(json, figures_json(figures))


class Engines:
    """A :class:`~aloraserve.serving.replica_pool.ReplicaPool` whose replicas answer at once.

    Args:
        chunks: of each answer.
        is_ready: whether they say that they are there already.
    """

    def __init__(self, chunks: Sequence[EngineChunk], *, is_ready: bool) -> None:
        self._chunks = chunks
        self._is_ready = is_ready
        self.replica = ""

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[Engines]:
        """Give the first in rank."""
        self.replica = rank[0]
        yield self

    def send(self, call: EngineCall) -> Any:
        """Return the answer."""
        return Replies(self._chunks, is_ready=self._is_ready)

    def outcome_of(self, error: Exception) -> Outcome:
        """Nothing of this pool's fails."""
        return Outcome.FAILED


class Replies:
    """Chunks that are there already.

    Args:
        chunks: of an answer.
        is_ready: whether this says so.
    """

    def __init__(self, chunks: Sequence[EngineChunk], *, is_ready: bool) -> None:
        self._chunks = iter(chunks)
        self.is_ready = is_ready

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> EngineChunk:
        """Return the next chunk."""
        try:
            return next(self._chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self) -> None:
        """Do nothing: it all was sent."""


@dataclass(slots=True)
class Conversations:
    """Bodies of chats of random words.

    Args:
        prompt_tokens: about how long each is.
    """

    prompt_tokens: int
    _random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    def messages(self) -> list[dict[str, str]]:
        """Return a new conversation."""
        turns = max(1, self.prompt_tokens // (WORDS_PER_TURN + 5))
        made = [{"role": "system", "content": f"You answer briefly. {self._words()}"}]
        for turn in range(turns):
            made.append({"role": ("user", "assistant")[turn % 2], "content": self._words()})
        return made

    def next_turn(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """Return a conversation after an answer and one more question."""
        return [
            *messages,
            {"role": "assistant", "content": self._words()},
            {"role": "user", "content": self._words()},
        ]

    def _words(self) -> str:
        return " ".join(self._random.choices(_WORDS, k=WORDS_PER_TURN))


_WORDS = [
    "the",
    "of",
    "a",
    "is",
    "what",
    "where",
    "house",
    "time",
    "people",
    "water",
    "small",
    "large",
    "question",
    "answer",
    "river",
    "table",
    "city",
    "number",
    "reason",
    "green",
    "because",
    "before",
    "after",
    "world",
    "music",
    "language",
    "paper",
    "machine",
    "window",
    "doctor",
    "winter",
    "summer",
    "money",
    "letter",
    "picture",
    "road",
]


class CallCost:
    """The measurement; see the module.

    Args:
        url: of the directory's server.
        tokenizer: of the base model.
        prompt_tokens: about how long a new conversation is.
        calls: of each kind.
        replicas: in the directory.
    """

    def __init__(self, url: str, tokenizer: Any, prompt_tokens: int, calls: int, replicas: int) -> None:
        self._conversations = Conversations(prompt_tokens)
        self._calls = calls
        self._replicas = replicas
        self._url = url
        self._directory = open_directory(url)
        ids = tuple(tokenizer("<|im_start|>safety\n", add_special_tokens=False)["input_ids"])
        self._adapter = AdapterVersion("safety", "alora", Path("/none"), 8, ("q_proj",), ids, "digest")
        self._prompts = PromptBuilder(tokenizer, SPACE, base_model=BASE, max_model_len=100_000, resolve=self._resolve)
        self._metrics = GatewayMetrics(CollectorRegistry())
        self._router = Router(
            ObservedDirectory(self._directory, self._metrics.directory),
            make_policy("expected-ttft", seed=0),
            SPACE,
            budget_s=LOOKUP_BUDGET_S,
            known_replicas=lambda: [replica_name(number) for number in range(replicas)],
        )
        self.figures: list[Figure] = []

    async def _resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        return self._adapter

    async def measure(self) -> list[Figure]:
        """Return the figures."""
        await asyncio.sleep(WARM_UP_S)
        first = [self._conversations.messages() for _ in range(self._calls)]
        second = [self._conversations.next_turn(messages) for messages in first]
        parse_us, bodies = await self._parsed(first, BASE)
        prompt_us, requests = await self._prompted("prompt, new conversation", bodies)
        length = sum(request.prompt_tokens for request in requests) // len(requests)
        self._add("prompt's length", float(length), "tokens")
        _, bodies = await self._parsed(second, BASE, is_shown=False)
        await self._prompted("prompt, next turn of it", bodies)
        _, bodies = await self._parsed(second, "safety", is_shown=False)
        await self._prompted("prompt, an aLoRA on the same conversation", bodies)
        place_us, redis_us = await self._placed(requests)
        whole_us = await self._answered("whole answer of one token, dispatched and written", requests, 1)
        one_us = await self._answered("stream of one token, dispatched and written", requests, 1, is_streamed=True)
        many = f"stream of {STREAM_CHUNKS} tokens"
        alone_us = await self._answered(f"{many}, each by itself", requests, STREAM_CHUNKS, is_streamed=True)
        ready_us = await self._answered(
            f"{many}, ready at once", requests, STREAM_CHUNKS, is_streamed=True, is_ready=True
        )
        total = parse_us + prompt_us + place_us + redis_us + max(whole_us, one_us)
        self._add("a call of one token, Redis included", total, "us", CALL_TARGET_US)
        for name, many_us in (("a further chunk by itself", alone_us), ("a further chunk among others", ready_us)):
            self._add(name, (many_us - one_us) / (STREAM_CHUNKS - 1), "us", CHUNK_TARGET_US)
        await self._directory.close()
        return self.figures

    async def _parsed(
        self, conversations: Sequence[Any], model: str, *, is_shown: bool = True
    ) -> tuple[float, list[ChatRequest]]:
        raw = [
            json_module.dumps({"model": model, "messages": messages, "max_tokens": 1, "stream": True}).encode()
            for messages in conversations
        ]
        bodies: list[ChatRequest] = []

        async def parse(body: bytes) -> None:
            bodies.append(parse_body(ChatRequest, body, MAX_BODY_BYTES))

        spent_us = await self._each(parse, raw)
        if is_shown:
            self._add("parse", spent_us)
        return spent_us, bodies

    async def _prompted(self, name: str, bodies: Sequence[ChatRequest]) -> tuple[float, list[GenerationRequest]]:
        requests: list[GenerationRequest] = []

        async def build(body: ChatRequest) -> None:
            requests.append(await self._prompts.chat(body, Origin(uuid.uuid4().hex, UNTENANTED, time.perf_counter())))

        spent_us = await self._each(build, bodies)
        self._add(name, spent_us)
        return spent_us, requests

    async def _placed(self, requests: Sequence[GenerationRequest]) -> tuple[float, float]:
        """Place calls, a few at a time, as replicas report between two heartbeats that they have them."""
        spent_us = redis_us = 0.0
        for first in range(0, len(requests), CALLS_PER_HEARTBEAT):
            few = requests[first : first + CALLS_PER_HEARTBEAT]
            placed: list[str] = []

            async def place(request: GenerationRequest, placed: list[str] = placed) -> None:
                placed.append(f"call-{uuid.uuid4().hex[:8]}")
                placement = await self._router.place(request.call, placed[-1])
                assert not placement.fallback, placement.fallback_reason

            before_us = await self._redis_us()
            spent_us += await self._each(place, few) * len(few)
            redis_us += await self._redis_us() - before_us
            for number in range(self._replicas):
                await self._directory.publish(replica_state(number), ttl_s=LEASE_S, settled=placed)
            for call_id in placed:
                self._router.ended(call_id)
        self._add("place: look up, decide, claim", spent_us / len(requests))
        self._add("the same, in Redis", redis_us / len(requests))
        return spent_us / len(requests), redis_us / len(requests)

    async def _answered(
        self,
        name: str,
        requests: Sequence[GenerationRequest],
        tokens: int,
        *,
        is_streamed: bool = False,
        is_ready: bool = False,
    ) -> float:
        """Return what dispatching and writing cost beyond the placement, which is not the directory's here."""
        dispatcher = self._dispatcher(tokens, is_ready=is_ready)

        async def answer(request: GenerationRequest) -> None:
            generation = await dispatcher.generate(request)
            writer = ChatAnswer.of(generation)
            serving_headers(generation)
            if not is_streamed:
                await writer.whole(generation)
                return
            async for _ in writer.stream(generation, include_usage=False):
                pass

        spent_us = await self._each(answer, requests)
        self._add(name, spent_us)
        return spent_us

    def _dispatcher(self, tokens: int, *, is_ready: bool) -> Dispatcher:
        chunks = [EngineChunk(0, " word", 1, None if left else "length") for left in range(tokens - 1, -1, -1)]
        policy = make_policy("least-loaded", seed=0)
        router = Router(
            self._directory, policy, SPACE, known_replicas=lambda: ["replica-000", "replica-001"], use_directory=False
        )
        observers = [ReceiptWriter(ReceiptRing(1024)), CallMetrics(self._metrics), CallSpans(Tracing())]
        return Dispatcher(router, Engines(chunks, is_ready=is_ready), observers)

    async def _each(self, step: Callable[[Any], Awaitable[None]], values: Sequence[Any]) -> float:
        """Return the microseconds of CPU time that a step takes for a value, on the average."""
        started = time.process_time_ns()
        for value in values:
            await step(value)
        return (time.process_time_ns() - started) / 1000 / len(values)

    async def _redis_us(self) -> float:
        info = await server_info(self._url, "cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6

    def _add(self, name: str, value: float, unit: str = "us", target: float | None = None) -> None:
        self.figures.append(Figure(name, value, unit, target))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run_command(bench_call_cost)
