"""The whole request path without Ray: a body, the real router on a directory in memory, a pool, an answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from support.character_tokenizer import CharacterTokenizer, resolve
from support.fake_pool import DiedError, FakePool

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.routing.policies import make_policy
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.routing.router import Router
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire import ChatRequest, parse_body

SPACE = KeySpace("model", "tokenizer", 8)
MESSAGES = [{"role": "user", "content": "what is left of a long conversation"}]
CHUNKS = (EngineChunk(0, "no", 1, cached_tokens=40), EngineChunk(0, "thing", 1, "stop"))
ACME = Caller("acme", cache_salt="tenant:acme")


class Path:
    """All that an edge needs, of a fleet of two replicas."""

    def __init__(self, *scripts: Any) -> None:
        self.directory = MemoryDirectory()
        self.pool = FakePool(*scripts)
        self.receipts = ReceiptRing()
        self._prompts = PromptBuilder(
            CharacterTokenizer(), SPACE, base_model="base", max_model_len=256, resolve=resolve
        )
        policy = make_policy("expected-ttft", seed=1)
        router = Router(self.directory, policy, SPACE, budget_s=5, known_replicas=lambda: ["a", "b"])
        self.dispatcher = Dispatcher(router, self.pool, [ReceiptWriter(self.receipts)])

    async def begin(self) -> None:
        for replica in ("a", "b"):
            await self.directory.publish(ReplicaState(replica, "1"), ttl_s=60)

    async def request(self, model: str = "base", caller: Caller = UNTENANTED, **fields: Any) -> GenerationRequest:
        body = json.dumps({"model": model, "messages": MESSAGES} | fields).encode()
        return await self._prompts.chat(parse_body(ChatRequest, body), Origin("r1", caller, 0.0, session="s"))

    async def answer(self, request: GenerationRequest) -> str:
        return "".join([chunk.text async for chunk in await self.dispatcher.generate(request)])


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("holder", ["a", "b"])
async def test_a_call_goes_where_its_prefix_is_and_leaves_a_receipt(holder: str, is_streamed: bool) -> None:
    path = Path(CHUNKS)
    await path.begin()
    await path.directory.apply(holder, "1", stored=place((await path.request()).keys))
    assert await path.answer(await path.request("safety", stream=is_streamed)) == "nothing"
    assert path.pool.ranks[0][0] == holder
    receipt = path.receipts.get("r1")
    assert receipt is not None
    assert (receipt.replica, receipt.adapter, receipt.claim) == (holder, "safety", "claimed")
    assert (receipt.candidates[0].overlap_tokens, receipt.cached_tokens) == (32, 40)


async def test_one_value_goes_from_the_edge_to_the_engine() -> None:
    path = Path(CHUNKS)
    await path.begin()
    request = await path.request("safety", ACME, max_tokens=7)
    generation = await path.dispatcher.generate(request)
    assert generation.request is request
    (call,) = path.pool.calls
    assert (call.adapter, call.cache_salt, call.sampling.max_tokens) == (
        AdapterRef("safety", "alora", "digest of safety"),
        "tenant:acme",
        7,
    )
    assert (call.token_ids, call.keys) == (request.token_ids, request.keys)


async def test_another_tenant_s_blocks_do_not_draw_a_call() -> None:
    path = Path(CHUNKS)
    await path.begin()
    mine = await path.request(caller=ACME)
    await path.directory.apply("b", "1", stored=place((await path.request()).keys))
    generation = await path.dispatcher.generate(mine)
    assert generation.overlap_tokens == 0


async def test_a_lost_replica_s_call_is_answered_by_the_other_and_claimed_there() -> None:
    path = Path((CHUNKS[0], DiedError()), CHUNKS)
    await path.begin()
    request = await path.request()
    assert await path.answer(request) == "nothing"
    first, second = (rank[0] for rank in path.pool.ranks)
    assert {first, second} == {"a", "b"}
    receipt = path.receipts.get("r1")
    assert receipt is not None
    assert [record.outcome for record in receipt.attempts] == ["cut-short", "answered"]
    found = {one.state.replica: one.claims for one in await path.directory.lookup(request.keys)}
    assert found[second] == 1


def test_the_path_needs_no_runtime() -> None:
    """Importing it in a process of its own loads neither Ray nor a web framework nor an engine."""
    import subprocess

    code = "import aloraserve.serving.attempts, aloraserve.serving.prompts.prompt_builder, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"ray", "fastapi", "starlette", "grpc", "vllm", "torch", "transformers"}
