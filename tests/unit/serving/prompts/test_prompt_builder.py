"""Prompts: rendered, tokenized and invoked once; what does not fit is refused with both lengths."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from support.character_tokenizer import TEMPLATE, CharacterTokenizer, resolve
from support.small_tokenizers import small_tokenizer

from aloraserve.blocks import AdapterEffect, KeySpace
from aloraserve.errors import InvalidRequestError, UnknownModelError
from aloraserve.serving.prompts import prompt_builder
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body

LIMIT = 64
SPACE = KeySpace("model", "tokenizer", 8)
ORIGIN = Origin("r1", UNTENANTED, 0.0)
RENDERED = "s:be kind\nu:hi\n"
MESSAGES = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
Ask = Callable[..., Awaitable[GenerationRequest]]


def builder(addition: str = "") -> PromptBuilder:
    """Return a builder whose template ends with the given addition."""
    tokenizer = CharacterTokenizer(TEMPLATE + addition)
    return PromptBuilder(tokenizer, SPACE, base_model="base", max_model_len=LIMIT, resolve=resolve)


def parsed(**fields: Any) -> ChatRequest:
    return parse_body(ChatRequest, json.dumps({"model": "base", "messages": MESSAGES} | fields).encode())


def text_of(request: GenerationRequest) -> str:
    return "".join(map(chr, request.token_ids))


def effect(request: GenerationRequest) -> AdapterEffect | None:
    """Return what the adapter changes."""
    if request.adapter is None or request.activation is None:
        return None
    return AdapterEffect(request.adapter.name, request.adapter.digest, request.activation)


def effect_of(request: GenerationRequest) -> AdapterEffect | None:
    """Return what the keys say that the adapter changes, which is checked here."""
    found = effect(request)
    assert request.keys == SPACE.keys(request.token_ids, adapter=found)
    return found


@pytest.fixture
def chat() -> Ask:
    async def ask(model: str = "base", content: str | None = None, **fields: Any) -> GenerationRequest:
        messages = MESSAGES if content is None else [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages} | fields
        return await builder().chat(parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN)

    return ask


@pytest.fixture
def complete() -> Ask:
    async def ask(prompt: str | list[int], model: str = "base", **fields: Any) -> GenerationRequest:
        body = {"model": model, "prompt": prompt} | fields
        return await builder().completion(parse_body(CompletionRequest, json.dumps(body).encode()), ORIGIN)

    return ask


async def test_a_base_chat_ends_with_the_generation_prompt(chat: Ask) -> None:
    prompt = await chat()
    assert text_of(prompt) == RENDERED + "a:"
    assert (prompt.model, prompt.kind, prompt.adapter, prompt.activation, effect_of(prompt)) == (
        "base", "base", None, None, None,
    )  # fmt: skip


async def test_a_plain_lora_has_the_base_s_prompt_and_changes_all_of_it(chat: Ask) -> None:
    prompt = await chat("plain")
    assert text_of(prompt) == RENDERED + "a:"
    assert (prompt.model, prompt.kind, prompt.activation) == ("plain", "lora", 0)
    assert effect_of(prompt) == AdapterEffect("plain", "digest of plain", 0)


async def test_an_absent_invocation_takes_the_place_of_the_generation_prompt(chat: Ask) -> None:
    prompt = await chat("safety")
    assert text_of(prompt) == RENDERED + "<s>"
    assert (prompt.kind, prompt.activation) == ("alora", len(RENDERED))
    assert effect_of(prompt) == AdapterEffect("safety", "digest of safety", len(RENDERED))


@pytest.mark.parametrize("content", ["is <s> this safe", "<s>", "<s> <s> x", "x<s>"])
async def test_an_invocation_that_a_client_writes_does_not_count(chat: Ask, content: str) -> None:
    prompt = await chat("safety", content)
    assert text_of(prompt) == f"u:{content}\n<s>"
    assert prompt.activation == len(f"u:{content}\n")
    assert effect_of(prompt) == AdapterEffect("safety", "digest of safety", prompt.activation)


async def test_a_sibling_s_invocation_is_not_its_own(chat: Ask) -> None:
    prompt = await chat("safety", "<u>")
    assert text_of(prompt) == "u:<u>\n<s>"
    assert prompt.activation == len("u:<u>\n")


async def test_the_base_and_a_sibling_share_what_comes_before_the_invocation(chat: Ask) -> None:
    keys = [request.keys for request in (await chat(), await chat("safety"), await chat("uncertain"))]
    shared = len(RENDERED) // SPACE.block_tokens
    assert shared == 1
    assert keys[0][:shared] == keys[1][:shared] == keys[2][:shared]
    assert keys[1][shared] != keys[2][shared]


async def test_a_template_argument_may_name_an_adapter_of_the_base(chat: Ask) -> None:
    prompt = await chat(chat_template_kwargs={"adapter_name": "safety"})
    assert prompt.token_ids == (await chat("safety")).token_ids
    assert (prompt.model, prompt.kind) == ("base", "alora")
    assert prompt.adapter is not None
    assert prompt.adapter.name == "safety"


@pytest.mark.parametrize("name", ["base", "safety"])
async def test_naming_the_same_model_twice_is_not_a_contradiction(chat: Ask, name: str) -> None:
    assert await chat(name, chat_template_kwargs={"adapter_name": name}) == await chat(name)


@pytest.mark.parametrize("name", ["plain", "base", "nobody"])
async def test_an_adapter_and_another_name_contradict_each_other(chat: Ask, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await chat("safety", chat_template_kwargs={"adapter_name": name})
    assert caught.value.param == "chat_template_kwargs.adapter_name"
    assert all(repr(part) in caught.value.message for part in ("safety", name, "base"))


async def test_other_template_arguments_reach_the_template(chat: Ask) -> None:
    prompt = await chat(chat_template_kwargs={"style": "short", "adapter_name": "safety"})
    assert text_of(prompt) == RENDERED + "[short]<s>"


@pytest.mark.parametrize(
    "name",
    [
        "add_generation_prompt",
        "tokenize",
        "conversation",
        "return_dict",
        "tools",
        "documents",
        "messages",
        "chat_template",
        "continue_final_message",
    ],
)
async def test_reserved_template_arguments_are_refused_by_name(chat: Ask, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"cannot set '{name}'") as caught:
        await chat(chat_template_kwargs={name: True})
    assert caught.value.param == "chat_template_kwargs"


async def test_what_a_template_argument_breaks_is_the_client_s_to_change() -> None:
    body = parsed(chat_template_kwargs={"divisor": 0})
    with pytest.raises(InvalidRequestError, match="division by zero"):
        await builder("{{ 1 / divisor }}").chat(body, ORIGIN)


async def test_what_the_template_refuses_is_the_client_s_to_change(chat: Ask) -> None:
    with pytest.raises(InvalidRequestError, match="system comes first") as caught:
        await chat(messages=[MESSAGES[1], MESSAGES[0]])
    assert caught.value.param == "messages"


@pytest.mark.parametrize("model", ["nobody", "Base", "safety ", "x" * 200])
async def test_an_unknown_model_is_the_registry_s_to_refuse(chat: Ask, complete: Ask, model: str) -> None:
    for request in (chat(model), complete("hi", model)):
        with pytest.raises(UnknownModelError) as caught:
            await request
        assert caught.value.param == "model"


async def test_an_unknown_adapter_name_is_an_unknown_model(chat: Ask) -> None:
    with pytest.raises(UnknownModelError, match="'nobody'"):
        await chat(chat_template_kwargs={"adapter_name": "nobody"})


async def test_a_text_completion_has_its_special_tokens_and_a_chat_its_template_s(complete: Ask, chat: Ask) -> None:
    assert (await complete("hi")).token_ids == [1, ord("h"), ord("i")]
    assert 1 not in (await chat()).token_ids


async def test_token_ids_are_taken_as_they_are(complete: Ask) -> None:
    assert (await complete([5, 0, 127])).token_ids == [5, 0, 127]


async def test_a_token_id_outside_the_vocabulary_is_named(complete: Ask) -> None:
    with pytest.raises(InvalidRequestError, match="token id 128; the vocabulary has 128") as caught:
        await complete([5, 128, 300])
    assert caught.value.param == "prompt"


async def test_a_completion_s_invocation_is_appended_only_if_it_is_absent(complete: Ask) -> None:
    absent = await complete([104, 105], "safety")
    assert (text_of(absent), absent.activation) == ("hi<s>", 2)
    at_end = await complete([ord(character) for character in "hi<s>"], "safety")
    assert (text_of(at_end), at_end.activation) == ("hi<s>", 2)
    inside = await complete([ord(character) for character in "<s>hi"], "safety")
    assert (text_of(inside), inside.activation) == ("<s>hi", 0)


async def test_a_plain_lora_s_completion_is_changed_from_its_start(complete: Ask) -> None:
    prompt = await complete([1, 2], "plain")
    assert (prompt.token_ids, prompt.activation) == ([1, 2], 0)


async def test_without_max_tokens_a_chat_may_fill_the_context(chat: Ask) -> None:
    prompt = await chat()
    assert prompt.sampling.max_tokens == LIMIT - len(prompt.token_ids)


async def test_other_sampling_settings_are_kept(complete: Ask) -> None:
    sampling = (await complete([1], temperature=0.5, seed=7, stop="x", n=2, logprobs=3)).sampling
    assert (sampling.temperature, sampling.seed, sampling.stop, sampling.n, sampling.logprobs) == (
        0.5, 7, ("x",), 2, 3,
    )  # fmt: skip
    assert sampling.max_tokens == 16


async def test_max_tokens_are_at_most_the_room_and_never_more_than_the_context(complete: Ask) -> None:
    assert (await complete([1] * 40, max_tokens=24)).sampling.max_tokens == 24
    assert (await complete([1] * 40, max_tokens=LIMIT)).sampling.max_tokens == 24
    with pytest.raises(InvalidRequestError, match="max_tokens is 65; the model's context holds 64 tokens") as caught:
        await complete([1] * 40, max_tokens=LIMIT + 1)
    assert caught.value.param == "max_tokens"


async def test_the_invocation_takes_room_too(complete: Ask) -> None:
    assert (await complete([1] * 37, "safety", max_tokens=24)).sampling.max_tokens == 24
    assert (await complete([1] * 37, "safety", max_tokens=25)).sampling.max_tokens == 24


async def test_a_prompt_that_leaves_room_for_one_token_is_taken(complete: Ask) -> None:
    assert (await complete([1] * (LIMIT - 1), max_tokens=1)).sampling.max_tokens == 1


@pytest.mark.parametrize("tokens", [LIMIT, LIMIT + 1, 10 * LIMIT])
async def test_a_prompt_that_is_too_long_is_refused_with_both_lengths(complete: Ask, tokens: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await complete([1] * tokens, max_tokens=1)
    assert f"{tokens} tokens" in caught.value.message
    assert f"holds {LIMIT}" in caught.value.message


async def test_a_conversation_that_is_too_long_names_its_field(chat: Ask) -> None:
    with pytest.raises(InvalidRequestError, match=f"105 tokens.* holds {LIMIT}") as caught:
        await chat(content="x" * 100)
    assert caught.value.param == "messages"


async def test_a_prompt_without_tokens_is_refused(chat: Ask) -> None:
    silent = PromptBuilder(CharacterTokenizer(""), SPACE, base_model="base", max_model_len=LIMIT, resolve=resolve)
    with pytest.raises(InvalidRequestError, match="no tokens"):
        await silent.chat(parsed(), ORIGIN)
    assert (await chat(content="")).token_ids


async def test_a_completion_s_default_length_is_cut_to_the_room_there_is(complete: Ask) -> None:
    assert (await complete("hi")).sampling.max_tokens == 16
    assert (await complete("x" * 55)).sampling.max_tokens == 64 - 56


async def test_a_completion_that_is_too_long_names_its_field(complete: Ask) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await complete("x" * 64)
    assert caught.value.param == "prompt"


async def test_a_request_knows_its_caller_who_shares_no_blocks(chat: Ask) -> None:
    body = parsed(stream=True)
    origin = Origin("r2", Caller("acme", cache_salt="tenant:acme"), 0.0, session="s", traceparent="t")
    request, other = await builder().chat(body, origin), await chat()
    assert (request.id, request.is_streamed, request.call.session) == ("r2", True, "s")
    assert request.token_ids == other.token_ids
    assert not set(request.keys) & set(other.keys)
    call = request.engine_call("r2-1")
    assert (call.request_id, call.cache_salt, call.traceparent) == ("r2-1", "tenant:acme", "t")
    assert (call.token_ids, call.keys, call.sampling) == (request.token_ids, request.keys, request.sampling)


async def test_what_is_short_needs_no_thread(chat: Ask, complete: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "to_thread", None)
    assert text_of(await chat("safety")) == RENDERED + "<s>"
    assert len((await complete("hi")).token_ids) == 3


@pytest.mark.parametrize("limit", ["RENDERED_AT_ONCE", "TOKENIZED_AT_ONCE"])
async def test_what_is_long_is_the_same_in_a_thread(chat: Ask, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, loop = await chat("safety"), threading.get_ident()
    threads: set[int] = set()
    encode = CharacterTokenizer.__call__

    def noted(self: CharacterTokenizer, text: str, **options: Any) -> Any:
        threads.add(threading.get_ident())
        return encode(self, text, **options)

    monkeypatch.setattr(prompt_builder, limit, 5)
    asked = builder()
    monkeypatch.setattr(CharacterTokenizer, "__call__", noted)
    in_thread = await asked.chat(parsed(model="safety"), ORIGIN)
    assert (in_thread.token_ids, in_thread.keys, in_thread.call) == (at_once.token_ids, at_once.keys, at_once.call)
    assert threads
    assert loop not in threads


async def test_an_alora_on_a_conversation_tokenizes_what_is_new() -> None:
    tokenizer = small_tokenizer("byte-level")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
    )
    asked = PromptBuilder(tokenizer, SPACE, base_model="base", max_model_len=4096, resolve=resolve)
    messages = [{"role": "user", "content": "What is the name of the river? " * 8}]
    base = await asked.chat(parsed(messages=messages), ORIGIN)
    encoded: list[str] = []
    encoder = asked._encoder
    encode = encoder.ids
    encoder.ids = lambda text, **options: encoded.append(text) or encode(text, **options)  # type: ignore[method-assign]
    safety = await asked.chat(parsed(messages=messages, model="safety"), ORIGIN)
    assert encoded == ["<|end|>\n"]
    assert safety.token_ids[: safety.activation] == base.token_ids[: safety.activation]
    assert safety.keys == SPACE.keys(safety.token_ids, adapter=effect(safety))


async def test_evaluators_of_one_text_tokenize_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, encoded, first_in, go_on = builder_for_long_texts(), [], threading.Event(), threading.Event()
    encode = asked._encoder.ids

    def noted(text: str, **options: Any) -> list[int]:
        encoded.append(text)
        first_in.set()
        assert go_on.wait(10)
        return encode(text, **options)

    monkeypatch.setattr(asked._texts, "_encode", noted)
    monkeypatch.setattr(prompt_builder, "TOKENIZED_AT_ONCE", 100)
    calls = [asyncio.create_task(asked.completion(completion(name), ORIGIN)) for name in ("base", "safety", "plain")]
    await asyncio.to_thread(first_in.wait, 10)
    # Whoever came first leaves.
    calls[0].cancel()
    go_on.set()
    safety, plain = await asyncio.gather(*calls[1:])
    again = await asked.completion(completion("base"), ORIGIN)
    assert encoded == [LONG_TEXT]
    assert not asked._tokenizing
    assert again.keys == SPACE.keys(again.token_ids)
    for request in (safety, plain):
        assert request.token_ids[: len(again.token_ids)] == again.token_ids
        assert request.keys == SPACE.keys(request.token_ids, adapter=effect(request))


async def test_a_text_that_cannot_be_tokenized_fails_all_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = builder_for_long_texts()

    def fail(text: str) -> list[int]:
        raise ValueError("not a text")

    monkeypatch.setattr(asked._texts, "_encode", fail)
    monkeypatch.setattr(prompt_builder, "TOKENIZED_AT_ONCE", 100)
    calls = (asked.completion(completion("base"), ORIGIN) for _ in range(2))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert not asked._tokenizing


LONG_TEXT = "What is the name of the river? " * 20


def builder_for_long_texts() -> PromptBuilder:
    return PromptBuilder(CharacterTokenizer(TEMPLATE), SPACE, base_model="base", max_model_len=4096, resolve=resolve)


def completion(model: str) -> CompletionRequest:
    return parse_body(CompletionRequest, json.dumps({"model": model, "prompt": LONG_TEXT}).encode())


async def test_a_prompt_is_cut_where_the_client_wants_it(complete: Ask, chat: Ask) -> None:
    ids = list(range(2, 22))
    assert (await complete(ids, truncate_prompt_tokens=5)).token_ids == ids[-5:]
    assert (await complete(ids, truncate_prompt_tokens=5, truncation_side="right")).token_ids == ids[:5]
    assert (await complete(ids, truncate_prompt_tokens=50)).token_ids == ids
    long = await complete([1] * 200, truncate_prompt_tokens=-1)
    assert (len(long.token_ids), long.sampling.max_tokens) == (LIMIT - 1, 1)
    assert text_of(await chat(truncate_prompt_tokens=6, truncation_side="left")) == f"{RENDERED}a:"[-6:]
    cut = await complete("x" * 40, truncate_prompt_tokens=17)
    assert cut.keys == SPACE.keys(cut.token_ids), "and its keys are its own"


@pytest.mark.parametrize(("tokens", "said"), [(LIMIT + 1, "holds 64"), (0, "no tokens")])
async def test_a_cut_that_leaves_no_prompt_is_refused(complete: Ask, tokens: int, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        await complete([1] * 9, truncate_prompt_tokens=tokens)


async def test_what_invokes_an_adapter_is_never_cut_off(chat: Ask) -> None:
    whole = await chat("safety")
    cut = await chat("safety", truncate_prompt_tokens=len(whole.token_ids) - 4, truncation_side="left")
    assert (cut.token_ids, cut.activation) == (whole.token_ids[4:], (whole.activation or 0) - 4)
    assert effect_of(cut) is not None
    for side, tokens in (("right", len(whole.token_ids) - 1), ("left", 1)):
        with pytest.raises(InvalidRequestError, match="cut off what invokes the adapter"):
            await chat("safety", truncate_prompt_tokens=tokens, truncation_side=side)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop_token_ids", [5, 100]),
        ("allowed_token_ids", [100]),
        ("logit_bias", {"100": 1}),
        ("prompt", [5, 100]),
        ("prompt", "a d b"),
        ("bad_words", ["d"]),
    ],
)
async def test_tokens_without_an_embedding_never_reach_an_engine(field: str, value: Any) -> None:
    """Of a tokenizer with more tokens than its model: ids from 100 on would end each engine that gets one."""
    small = PromptBuilder(
        CharacterTokenizer(), SPACE, base_model="base", max_model_len=LIMIT, resolve=resolve, embeddings=100
    )
    body = {"model": "base", "prompt": "a b"} | {field: value}
    with pytest.raises(InvalidRequestError, match="has token id 100; the vocabulary has 100") as caught:
        await small.completion(parse_body(CompletionRequest, json.dumps(body).encode()), ORIGIN)
    assert caught.value.param == field


async def test_tokens_of_a_chat_without_an_embedding_are_refused_too() -> None:
    small = PromptBuilder(
        CharacterTokenizer(), SPACE, base_model="base", max_model_len=LIMIT, resolve=resolve, embeddings=100
    )
    with pytest.raises(InvalidRequestError, match="messages has token id"):
        await small.chat(parsed(), ORIGIN)


async def test_a_call_that_reads_no_cache_has_keys_for_its_engine_but_none_for_the_router(complete: Ask) -> None:
    for more in ({"prompt_logprobs": 0}, {"echo": True, "logprobs": 1}):
        request = await complete([1] * 40, **more)
        assert (len(request.keys), len(request.call.keys)) == (5, 0)
        assert len(request.engine_call("c").keys) == 5
    assert len((await complete([1] * 40, echo=True)).call.keys) == 5


async def test_an_echo_is_the_client_s_text_or_that_of_its_tokens(complete: Ask) -> None:
    assert (await complete("hi")).echo is None
    echo = (await complete("hi", echo=True, max_tokens=0)).echo
    assert echo is not None
    assert (echo.text, echo.is_alone) == ("hi", True)


async def test_more_log_probabilities_than_can_be_sent_are_refused() -> None:
    long = PromptBuilder(CharacterTokenizer(), SPACE, base_model="base", max_model_len=20_000, resolve=resolve)
    body = {"model": "base", "prompt": [1] * 19_000, "prompt_logprobs": 20}
    with pytest.raises(InvalidRequestError, match="399000 log-probabilities of the prompt"):
        await long.completion(parse_body(CompletionRequest, json.dumps(body).encode()), ORIGIN)


async def test_a_shortest_answer_beyond_the_longest_is_refused(complete: Ask) -> None:
    assert (await complete([1], min_tokens=3, max_tokens=3)).sampling.min_tokens == 3
    with pytest.raises(InvalidRequestError, match="min_tokens is 4; at most max_tokens, here 3"):
        await complete([1], min_tokens=4, max_tokens=3)


async def test_the_body_s_priority_is_the_call_s(complete: Ask) -> None:
    assert [(await complete([1], **more)).origin.priority for more in ({}, {"priority": -3})] == [0, -3]


class TestSharedPrefix:
    """What all tenants share is salted from its end on, in keys that engines derive alike."""

    SALTED = Origin("r1", Caller("acme", cache_salt="tenant:4:acme"), 0.0)

    def builder(self, public: int) -> PromptBuilder:
        return PromptBuilder(
            CharacterTokenizer(TEMPLATE),
            SPACE,
            base_model="base",
            max_model_len=LIMIT,
            resolve=resolve,
            public_blocks=lambda token_ids, most: min(public, most, len(token_ids) // 8),
        )

    @pytest.mark.parametrize("model", ["base", "safety", "plain"])
    @pytest.mark.parametrize("public", [0, 1, 9])
    async def test_keys_and_the_engine_s_call_agree(self, model: str, public: int) -> None:
        request = await self.builder(public).chat(parsed(model=model), self.SALTED)
        found = effect(request)
        base = (len(request.token_ids) if found is None else found.activation) // 8
        assert request.public_blocks == min(public, base)
        assert request.engine_call("c").public_blocks == request.public_blocks
        assert request.keys == SPACE.keys(
            request.token_ids, cache_salt="tenant:4:acme", adapter=found, public_blocks=request.public_blocks
        )

    async def test_remembered_texts_do_not_bring_salted_keys_back(self) -> None:
        prompts = self.builder(1)
        body = parse_body(CompletionRequest, json.dumps({"model": "base", "prompt": "x" * 40}).encode())
        first, second = [await prompts.completion(body, self.SALTED) for _ in range(2)]
        assert first.keys == second.keys
        assert first.keys[0] == SPACE.keys(first.token_ids)[0]

    @pytest.mark.parametrize("model", ["base", "safety"])
    async def test_a_conversation_s_next_turn_hashes_what_is_new(
        self, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prompts, hashed, real = self.builder(2), [0], KeySpace.extend

        def counted(self: KeySpace, parent: bytes, token_ids: Sequence[int], *more: Any) -> list[bytes]:
            hashed[0] += len(token_ids)
            return real(self, parent, token_ids, *more)

        def turn(tokens: int, model: str) -> CompletionRequest:
            return parse_body(CompletionRequest, json.dumps({"model": model, "prompt": [5] * tokens}).encode())

        await prompts.completion(turn(40, "base"), self.SALTED)
        monkeypatch.setattr(KeySpace, "extend", counted)
        request = await prompts.completion(turn(48, model), self.SALTED)
        monkeypatch.undo()
        found = effect(request)
        assert 0 < hashed[0] <= 24, "not the 48 of the whole prompt"
        assert request.keys == SPACE.keys(
            request.token_ids, cache_salt="tenant:4:acme", adapter=found, public_blocks=request.public_blocks
        )

    async def test_nobody_s_call_has_no_public_blocks(self) -> None:
        request = await self.builder(1).chat(parsed(), ORIGIN)
        assert (request.public_blocks, request.keys) == (0, SPACE.keys(request.token_ids))
