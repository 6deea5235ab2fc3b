"""A simulated base model invokes an adapter: the adapter's part is computed over what was cached before it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from support.character_tokenizer import CharacterTokenizer
from support.chat_tokenizers import alora, resolver_of
from support.engine_host import BLOCK, SPACE, RecordingDirectory, started_host
from support.fake_pool import FakeRouter

from aloraserve.routing.receipts import Outcome, ReceiptRing
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.engine_messages import EngineCall, EngineReply
from aloraserve.serving.invocation_finder import InvocationFinder, InvocationIndex
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.request import Origin
from aloraserve.serving.self_invocation import SelfInvocation
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body
from aloraserve_services.engine.host import EngineHost
from aloraserve_services.engine.simulated.answer_words import AnswerWords, Word

WORDS = AnswerWords([Word(900 + number, f" w{number}") for number in range(7)])
FIRST, MOST = 40, 60
"""Tokens of the base model up to the invocation's end, and of the answer."""
BODY = {
    "model": "base",
    "messages": [{"role": "user", "content": "x" * 100}],
    "adapters": "auto",
    "max_tokens": MOST,
    "ignore_eos": True,
}


class WordTokenizer(CharacterTokenizer):
    """Has the simulated engine's words."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the words of an answer."""
        return "".join(f" w{number - 900}" for number in ids)


class Replies:
    """A host's replies to a call."""

    is_ready = False

    def __init__(self, replies: Any) -> None:
        self._replies = replies

    def __aiter__(self) -> AsyncIterator[EngineReply]:
        return self

    async def __anext__(self) -> EngineReply:
        reply: EngineReply = await anext(self._replies)
        return reply

    def cancel(self) -> None:
        """Do nothing: the reservation's end closes the replies."""


class HostPool:
    """A pool of one host."""

    replica = "a"

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._sent: list[Any] = []

    @contextlib.asynccontextmanager
    async def reserve(self, rank: Sequence[str], share: Any = None) -> AsyncIterator[HostPool]:
        """Give the host; whoever was answered has left at the end."""
        yield self
        await self._sent.pop().aclose()

    def send(self, call: EngineCall) -> Replies:
        """Have a call answered."""
        self._sent.append(self._host.generate(call))
        return Replies(self._sent[-1])

    def outcome_of(self, error: Exception) -> Outcome:
        """Let every error through."""
        return Outcome.FAILED


async def test_the_adapter_s_part_is_prefilled_from_the_block_of_its_invocation_on() -> None:
    body = parse_body(ChatRequest, json.dumps(BODY).encode())
    origin = Origin("r1", UNTENANTED, 0.0)
    tokenizer = WordTokenizer()
    plain = PromptBuilder(tokenizer, SPACE, base_model="base", max_model_len=4096, resolve=resolver_of())
    request = await plain.chat(body, origin)
    answer = WORDS.answer(request.token_ids, None, 0)
    said = [answer.word(index).token for index in range(FIRST)]
    # As many words as set the place apart: the same few come again and again.
    width = next(width for width in range(3, FIRST) if _first_place(said, width) == FIRST - width)
    adapter = alora("self", said[-width:])
    receipts = ReceiptRing(10)
    async with started_host(RecordingDirectory(), adapter) as started:
        dispatcher = Dispatcher(cast(Any, FakeRouter()), cast(Any, HostPool(started.host)), [ReceiptWriter(receipts)])
        turns = SelfInvocation(dispatcher, plain, request, InvocationFinder(InvocationIndex([adapter])))
        chunks = [chunk async for chunk in await turns.begin()]
    text = "".join(chunk.text for chunk in chunks)
    after = WORDS.answer([*request.token_ids, *said], adapter.engine_name, 0)
    expected = [*said, *(after.word(index).token for index in range(MOST - FIRST))]
    assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert (sum(chunk.tokens for chunk in chunks), chunks[-1].finish_reason) == (MOST, "length")
    parts = [receipts.get(name) for name in ("r1", "r1-1")]
    assert [part and part.adapter for part in parts] == [None, "self"]
    place = request.prompt_tokens + FIRST - width
    assert parts[1] is not None
    assert parts[1].cached_tokens == place // BLOCK * BLOCK > request.prompt_tokens


def _first_place(tokens: Sequence[int], width: int) -> int:
    """Return the first place at which the last tokens occur."""
    last = list(tokens[-width:])
    return next(place for place in range(len(tokens)) if list(tokens[place : place + width]) == last)
