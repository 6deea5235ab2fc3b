"""A request path of two replicas without Ray, and intrinsics on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.intrinsics import read_intrinsic
from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import OverloadedError, UnknownModelError
from aloraserve.routing.policies import make_policy
from aloraserve.routing.receipts import Outcome
from aloraserve.routing.router import Router
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.serving.intrinsics.shared_prefix import PrefixWatch
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire import ChatRequest, parse_body
from support.character_tokenizer import CharacterTokenizer

SPACE = KeySpace("model", "tokenizer", 8)
WORDS = "what is left of a rather long conversation about ferries and their fares in winter"


class DiedError(Exception):
    """A replica that died."""


def chunk(text: str, *chances: tuple[str, float], finish_reason: str = "stop") -> EngineChunk:
    """Return an answer of one token, with its alternatives."""
    logprobs = ()
    if chances:
        chosen, *others = [TokenLogprob(token, logprob) for token, logprob in chances]
        logprobs = (TokenLogprobs(chosen, tuple(others)),)
    return EngineChunk(0, text, 1, finish_reason, cached_tokens=8, logprobs=logprobs)


class _Replies:
    def __init__(self, engine: Engine, call: EngineCall) -> None:
        self._engine, self._call, self._is_done = engine, call, False
        self.is_ready = False

    def __aiter__(self) -> _Replies:
        return self

    async def __anext__(self) -> Any:
        if self._is_done:
            raise StopAsyncIteration
        self._is_done = True
        return await self._engine.answer(self._call)

    def cancel(self) -> None:
        self._engine.cancelled.add(self._call.adapter.name if self._call.adapter else "base")


class _Reservation:
    def __init__(self, engine: Engine, replica: str) -> None:
        self._engine, self.replica = engine, replica

    def send(self, call: EngineCall) -> Any:
        self._engine.calls.append(call)
        return _Replies(self._engine, call)


class Engine:
    """Answers by the adapter's name; a call waits for its gate, if there is one.

    Attributes:
        answers: by name; a class of errors is raised.
        calls: as they came.
        cancelled: names of the adapters whose calls were ended before their answer.
        replicas: chosen, call by call.
    """

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: list[EngineCall] = []
        self.cancelled: set[str] = set()
        self.replicas: list[str] = []
        self.came = asyncio.Condition()

    async def answer(self, call: EngineCall) -> Any:
        name = call.adapter.name if call.adapter else "base"
        async with self.came:
            self.came.notify_all()
        if name in self.gates:
            await self.gates[name].wait()
        found = self.answers[name]
        if isinstance(found, type):
            raise found("unforeseen")
        return found

    @property
    def names(self) -> list[str]:
        return [call.adapter.name if call.adapter else "base" for call in self.calls]

    async def has(self, count: int) -> None:
        """Wait until so many calls came."""
        async with asyncio.timeout(60), self.came:
            await self.came.wait_for(lambda: len(self.calls) >= count)

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[_Reservation]:
        self.replicas.append((*rank, "c")[0])
        yield _Reservation(self, self.replicas[-1])

    def outcome_of(self, error: Exception) -> Outcome:
        return Outcome.LOST if isinstance(error, DiedError) else Outcome.FAILED


def adapter(name: str, output: dict[str, Any], **spec: Any) -> AdapterVersion:
    intrinsic = read_intrinsic(None, {"output": output} | spec)
    kind, ids = ("lora", ()) if name.endswith("-lora") else ("alora", tuple(ord(one) for one in f"<{name[0]}>"))
    return AdapterVersion(name, kind, Path("/none"), 8, ("q_proj",), ids, f"digest of {name}", intrinsic=intrinsic)  # type: ignore[arg-type]


YES_NO = {"form": "yes_no"}
ADAPTERS = (
    adapter("answerable", YES_NO),
    adapter("safety", YES_NO, guard={"threshold": 0.5}),
    adapter("uncertainty", {"form": "digit"}),
    adapter("judge", {"form": "choice", "choices": ["good", "bad"]}, instruction="Is it {criteria}?"),
    adapter("twin-lora", YES_NO),
    replace(
        adapter("requirement", YES_NO, instruction="<r> It is {criteria}."),
        invocation_mode=InvocationMode.INSTRUCTION,
        invocation_text="<r>",
    ),
    replace(adapter("words", {"form": "text"}), intrinsic=None),
)
ANSWERS: dict[str, Any] = {
    "answerable": chunk("Y", ("Y", -0.1), ("N", -2.4)),
    "safety": chunk("N", ("N", -0.1), ("Y", -2.4)),
    "uncertainty": chunk("7", ("7", -0.2), ("8", -2.0)),
    "judge": chunk("good", ("good", -0.1)),
    "twin-lora": chunk("Y", ("Y", -0.1)),
    "requirement": chunk("Y", ("Y", -0.1)),
}


class RequestPath:
    """All that intrinsics need, of a fleet of two replicas.

    Attributes:
        slots: that are left.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.directory = MemoryDirectory()
        self.slots = 100
        watch = PrefixWatch()
        self.prompts = PromptBuilder(
            CharacterTokenizer(), SPACE, base_model="base", max_model_len=512, resolve=self._resolve
        )
        policy = make_policy("expected-ttft", seed=1)
        router = Router(self.directory, policy, SPACE, budget_s=5, known_replicas=lambda: ["a", "b"])
        dispatcher = Dispatcher(router, engine, [watch])  # type: ignore[arg-type]
        self.runner = IntrinsicRunner(self.prompts, dispatcher, watch, slot=self._slot)

    async def begin(self) -> None:
        for replica in ("a", "b"):
            await self.directory.publish(ReplicaState(replica, "1"), ttl_s=60)

    async def warm(self, replica: str) -> None:
        """Have a replica hold the conversation, as the base model computed it."""
        request = await self.prompts.chat(conversation(), origin())
        await self.directory.apply(replica, "1", stored=place(request.keys))

    @staticmethod
    async def _resolve(name: str, **_: Any) -> AdapterVersion:
        found = next((one for one in ADAPTERS if one.name == name), None)
        if found is None:
            raise UnknownModelError(f"model {name!r} is not served; served are base", param="model")
        return found

    @contextlib.contextmanager
    def _slot(self, caller: Caller) -> Iterator[None]:
        if not self.slots:
            raise OverloadedError("too many requests are in progress; retry later")
        self.slots -= 1
        try:
            yield
        finally:
            self.slots += 1


def conversation(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": "Two crowns."}]
    return parse_body(ChatRequest, json.dumps({"model": "base", "messages": messages} | fields).encode())


def origin(request_id: str = "r1") -> Origin:
    return Origin(request_id, UNTENANTED, 0.0)
