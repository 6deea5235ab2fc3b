"""The base model invokes adapters in its own answer; each part goes on from all tokens so far."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from support.chat_tokenizers import SPACE, alora, builder_for, chat_tokenizer, plain_ids
from support.fake_pool import DiedError, FakePool, FakeRouter
from tokenizers import decoders

from aloraserve.adapters import AdapterVersion, StaticRegistry
from aloraserve.adapters.intrinsics.spec import IntrinsicParameters, IntrinsicSpec
from aloraserve.blocks import AdapterEffect
from aloraserve.errors import InvalidRequestError, ReplicaLostError, UnknownModelError
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.serving.invocation_finder import InvocationFinder
from aloraserve.serving.invokable import InvokableAdapters
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.self_invocation import MAX_INVOCATIONS, SelfInvocation
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body

TOKENIZER = chat_tokenizer()
TOKENIZER.backend_tokenizer.decoder = decoders.ByteLevel()


def ids_of(text: str) -> tuple[int, ...]:
    return plain_ids(TOKENIZER, text)


CHECK = alora("check", ids_of(" check:"))
LONG = alora("long", ids_of("please check:"))
PLAIN = AdapterVersion("plain", "lora", Path("/none"), 8, ("q_proj",), (), "digest of plain")
ADAPTERS = (CHECK, LONG, PLAIN)
PROMPTS = builder_for(TOKENIZER, *ADAPTERS)
INVOKABLE = InvokableAdapters(StaticRegistry(ADAPTERS, base_names=["base"]))


def said(text: str, *, together: int = 1, end: str | None = "stop") -> list[EngineChunk]:
    """Return the chunks of an answer: so many tokens at once, and the token that ends an answer."""
    ids = [*ids_of(text), *(ids_of("<|end|>") if end == "stop" else ())]
    chunks, shown = [], ""
    for start in range(0, len(ids), together):
        whole = TOKENIZER.decode(ids[: start + together], skip_special_tokens=True)
        new = ids[start : start + together]
        reason = end if start + together >= len(ids) else None
        logprobs = tuple(TokenLogprobs(TokenLogprob(str(number), -1.0)) for number in new)
        chunks.append(EngineChunk(0, whole[len(shown) :], len(new), reason, logprobs=logprobs, token_ids=tuple(new)))
        shown = whole
    return chunks


def body_of(adapters: Any = "auto", **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Is it green?"}]
    body = {"model": "base", "messages": messages, "max_tokens": 200, "adapters": adapters} | fields
    return parse_body(ChatRequest, json.dumps(body).encode())


async def request_of(body: ChatRequest) -> GenerationRequest:
    return await PROMPTS.chat(body, Origin("r1", UNTENANTED, 0.0))


async def finder_of(invokable: InvokableAdapters, **fields: Any) -> InvocationFinder:
    body = body_of(**fields)
    found = invokable.finder(body, await request_of(body))
    assert found is not None
    return found


class Conversation:
    """An answer in parts by scripted replicas."""

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self.pool = FakePool(*scripts)
        self.receipts = ReceiptRing(100)
        self.invokable = INVOKABLE
        self.dispatcher = Dispatcher(cast(Any, FakeRouter()), self.pool, [ReceiptWriter(self.receipts)])

    async def begin(self, adapters: Any = "auto", **fields: Any) -> SelfInvocation:
        body = body_of(adapters, **fields)
        self.request = await request_of(body)
        finder = self.invokable.finder(body, self.request)
        assert finder is not None
        return await SelfInvocation(self.dispatcher, PROMPTS, self.request, finder).begin()

    async def chunks(self, adapters: Any = "auto", **fields: Any) -> list[EngineChunk]:
        return [chunk async for chunk in await self.begin(adapters, **fields)]

    def prompts(self) -> list[str]:
        """Return the prompts of the calls, without the first one's."""
        return [TOKENIZER.decode(call.token_ids[len(self.request.token_ids) :]) for call in self.pool.calls]


def text_of(chunks: Sequence[EngineChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("together", [1, 3, 100])
async def test_an_answer_goes_on_as_the_adapter_and_then_as_the_base_model(together: int, stream: bool) -> None:
    talk = Conversation(
        said("It is so. check: and more words", together=together),
        said(" green", together=together),
        said(" I am sure.", together=together),
    )
    chunks = await talk.chunks(stream=stream)
    assert text_of(chunks) == "It is so. check: green I am sure."
    assert talk.prompts() == ["", "It is so. check:", "It is so. check: green"]
    assert [call.adapter and call.adapter.name for call in talk.pool.calls] == [None, "check", None]
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert chunks[-1].finish_reason == "stop"
    ends = 2
    assert (
        sum(chunk.tokens for chunk in chunks)
        == len(ids_of("It is so. check:")) + len(ids_of(" green")) + len(ids_of(" I am sure.")) + ends
    )
    assert all(len(chunk.logprobs) == chunk.tokens and not chunk.token_ids for chunk in chunks)
    assert talk.pool.held == 0


async def test_the_adapter_s_call_has_the_base_model_s_keys_up_to_the_invocation() -> None:
    talk = Conversation(said("It is so. check:"), said(" green"), said(" I am sure."))
    await talk.chunks()
    base, adapter, again = talk.pool.calls
    place = len(adapter.token_ids) - len(CHECK.invocation_ids)
    effect = AdapterEffect(CHECK.name, CHECK.digest, place)
    assert adapter.keys == SPACE.keys(adapter.token_ids, adapter=effect)
    assert adapter.keys[: place // SPACE.block_tokens] == SPACE.keys(adapter.token_ids)[: place // SPACE.block_tokens]
    assert again.keys == SPACE.keys(again.token_ids)
    assert base.shows_tokens


async def test_each_part_has_a_receipt() -> None:
    talk = Conversation(said("It is so. check:"), said(" green"), said(" I am sure."))
    await talk.chunks()
    shown = [(talk.receipts.get(name).adapter, name) for name in ("r1", "r1-1", "r1-2")]  # type: ignore[union-attr]
    assert shown == [(None, "r1"), ("check", "r1-1"), (None, "r1-2")]


async def test_without_an_invocation_the_answer_is_the_base_model_s() -> None:
    talk = Conversation(said("It is so."))
    chunks = await talk.chunks()
    assert (text_of(chunks), chunks[-1].finish_reason, len(talk.pool.calls)) == ("It is so.", "stop", 1)


async def test_what_an_adapter_writes_invokes_nothing_and_the_longer_invocation_wins() -> None:
    talk = Conversation(said("now please check:"), said(" see check: that"), said(" ok"))
    assert text_of(await talk.chunks()) == "now please check: see check: that ok"
    assert [call.adapter and call.adapter.name for call in talk.pool.calls] == [None, "long", None]


async def test_only_adapters_that_are_listed_are_invoked() -> None:
    talk = Conversation(said("now please check: yes"), said(" x"), said(" y"))
    assert text_of(await talk.chunks(["long"])) == "now please check: x y"
    talk = Conversation(said("it is so. check: yes"))
    assert text_of(await talk.chunks(["long"])) == "it is so. check: yes"


async def test_invocations_are_bounded() -> None:
    parts = [part for _ in range(MAX_INVOCATIONS) for part in (said(" check:"), said(" x"))]
    talk = Conversation(*parts, said(" check: y"))
    assert text_of(await talk.chunks()) == " check: x" * MAX_INVOCATIONS + " check: y"
    assert len(talk.pool.calls) == 2 * MAX_INVOCATIONS + 1


async def test_tokens_are_bounded_over_all_parts() -> None:
    width = len(ids_of("It is so. check:"))
    talk = Conversation(said("It is so. check:"), said(" gr", end="length"))
    chunks = await talk.chunks(max_tokens=width + len(ids_of(" gr")))
    assert [call.sampling.max_tokens for call in talk.pool.calls] == [width + len(ids_of(" gr")), len(ids_of(" gr"))]
    assert (text_of(chunks), chunks[-1].finish_reason) == ("It is so. check: gr", "length")
    talk = Conversation(said("It is so. check:", end="length"))
    chunks = await talk.chunks(max_tokens=width)
    assert (text_of(chunks), chunks[-1].finish_reason, len(talk.pool.calls)) == ("It is so. check:", "length", 1)


async def test_stop_strings_are_the_base_model_s() -> None:
    talk = Conversation(said("It is so. check:"), said(" green"), said(" I am sure."))
    await talk.chunks(stop=["!!"])
    assert [call.sampling.stop for call in talk.pool.calls] == [("!!",), (), ("!!",)]


async def test_an_intrinsic_generates_as_it_says_and_the_base_model_goes_on() -> None:
    parameters = IntrinsicParameters(max_tokens=2, temperature=0.5, stop=("\n",))
    judge = dataclasses.replace(CHECK, intrinsic=IntrinsicSpec(parameters=parameters))
    talk = Conversation(said("It is so. check:"), said(" gr", end="length"), said(" I am sure."))
    talk.invokable = InvokableAdapters(StaticRegistry([judge], base_names=["base"]))
    assert text_of(await talk.chunks(temperature=1, stop="!!")) == "It is so. check: gr I am sure."
    samplings = [call.sampling for call in talk.pool.calls]
    assert [(sampling.temperature, sampling.stop) for sampling in samplings] == [
        (1, ("!!",)),
        (0.5, ("\n",)),
        (1, ("!!",)),
    ]
    assert samplings[1].max_tokens == 2


async def test_a_text_that_the_engine_holds_back_is_shown_up_to_the_invocation() -> None:
    held = said("It is so. check:")
    held = [EngineChunk(0, "", 1, token_ids=chunk.token_ids) for chunk in held]
    talk = Conversation(held, said(" green"), said("!"))
    assert text_of(await talk.chunks()) == "It is so. check: green!"


async def test_a_lost_part_of_an_answer_that_nobody_saw_is_generated_again() -> None:
    talk = Conversation(
        said("It is so. check:"), [*said(" gre", end=None), DiedError()], said(" green"), said(" I am sure.")
    )
    assert text_of(await talk.chunks(stream=False)) == "It is so. check: green I am sure."
    assert talk.prompts()[1] == talk.prompts()[2] == "It is so. check:"


async def test_a_stream_ends_with_the_error_of_a_lost_part() -> None:
    talk = Conversation(said("It is so. check:"), [*said(" gre", end=None), DiedError()])
    answer = await talk.begin(stream=True)
    shown: list[EngineChunk] = []

    async def read() -> None:
        async for chunk in answer:
            shown.append(chunk)

    with pytest.raises(ReplicaLostError):
        await read()
    assert text_of(shown) == "It is so. check: gre"
    await answer.aclose()
    assert talk.pool.held == 0


async def test_whoever_goes_away_ends_the_part_that_runs() -> None:
    talk = Conversation(said("It is so. check:"), said(" green"))
    answer = await talk.begin(stream=True)
    while not (await anext(answer)).text.endswith("een"):
        pass
    await answer.aclose()
    assert talk.pool.held == 0
    assert len(talk.pool.calls) == 2


@pytest.mark.parametrize(
    ("adapters", "fields", "message"),
    [
        ("auto", {"model": "check"}, "with the base model"),
        ("auto", {"n": 2, "temperature": 1}, "with 'n' 1"),
        ("auto", {"response_format": {"type": "json_object"}}, "without a form"),
        (["plain"], {}, "'plain', which is a plain LoRA"),
    ],
)
async def test_where_nothing_can_be_invoked_the_field_is_refused(
    adapters: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        await finder_of(INVOKABLE, adapters=adapters, **fields)
    assert caught.value.param == "adapters"


async def test_an_unknown_adapter_is_refused_by_name() -> None:
    with pytest.raises(UnknownModelError, match="'nobody'"):
        await finder_of(INVOKABLE, adapters=["nobody"])


async def test_an_adapter_that_the_caller_may_not_use_is_not_invoked() -> None:
    class OneIsPrivate(StaticRegistry):
        def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
            if name == "check" and tenant != "acme":
                raise UnknownModelError("model 'check' is not served", param="model")
            return super().resolve(name, tenant=tenant, key=key)

    invokable = InvokableAdapters(OneIsPrivate(ADAPTERS, base_names=["base"]))
    finder = await finder_of(invokable)
    assert finder.find(CHECK.invocation_ids, 0) is None
    assert finder.find(LONG.invocation_ids, 0) is not None


async def test_the_caller_s_version_of_an_adapter_is_invoked_by_its_own_invocation() -> None:
    class OthersHaveAnother(StaticRegistry):
        def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
            return alora("check", ids_of(" ask:")) if name == "check" else super().resolve(name)

    invokable = InvokableAdapters(OthersHaveAnother(ADAPTERS, base_names=["base"]))
    finder = await finder_of(invokable)
    assert finder.find(CHECK.invocation_ids, 0) is None


async def test_what_is_served_later_is_invoked_too() -> None:
    served = [LONG]

    class Growing(StaticRegistry):
        def all(self) -> Sequence[AdapterVersion]:
            return served

    invokable = InvokableAdapters(Growing(ADAPTERS, base_names=["base"]))
    assert (await finder_of(invokable)).find(CHECK.invocation_ids, 0) is None
    served.append(CHECK)
    found = (await finder_of(invokable)).find(CHECK.invocation_ids, 0)
    assert found is not None
    assert found.adapter is CHECK


async def test_one_conversation_keeps_its_versions() -> None:
    """A canary's share is drawn by what the conversation begins with."""
    keys = []

    class Canary(StaticRegistry):
        def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
            keys.append(key)
            return super().resolve(name, tenant=tenant, key=key)

    invokable = InvokableAdapters(Canary(ADAPTERS, base_names=["base"]))
    for _ in range(2):
        assert (await finder_of(invokable)).find(CHECK.invocation_ids, 0) is not None
    assert keys == ["Is it green?"] * 2


async def test_a_chat_without_the_field_invokes_nothing() -> None:
    body = body_of(None)
    assert INVOKABLE.finder(body, await request_of(body)) is None
