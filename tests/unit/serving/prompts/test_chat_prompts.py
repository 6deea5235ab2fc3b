"""An aLoRA is invoked where its mode says, by nobody but the gateway, and where PEFT would find it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.character_tokenizer import CharacterTokenizer
from support.chat_tokenizers import ROLES, SPACE, alora, builder_for, chat_tokenizer, plain_ids
from support.small_tokenizers import CORPUS

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.blocks import AdapterEffect
from aloraserve.errors import InvalidAdapterError, InvalidRequestError, InvocationError
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body
from aloraserve.wire.errors import reply_for

ORIGIN = Origin("r1", UNTENANTED, 0.0)
TOKENIZER = chat_tokenizer()
QUESTION = {"role": "user", "content": "What is the river's name?"}
MARK = "<requirements>"
TEMPLATE = f"{MARK} {{criteria}}\nAnswer Y or N."
GENERATION_PROMPT = "<|start|>assistant\n"


def ids_of(text: str) -> tuple[int, ...]:
    return plain_ids(TOKENIZER, text)


APPENDED = alora("appended", ids_of("<|start|>safety\n"))
WORDS = alora("words", ids_of("check this"), text="check this")
ASKED = alora("asked", ids_of(MARK), text=MARK, instruction=TEMPLATE)
FIXED = alora("fixed", ids_of("<|end|>!"), text="<|end|>!", instruction="Judge. <|end|>! Y or N?")
BARE = alora("bare", ids_of(MARK), text=MARK, mode=InvocationMode.INSTRUCTION)
ANSWERING = alora("answering", ids_of(GENERATION_PROMPT), text=GENERATION_PROMPT)
ADAPTERS = (APPENDED, WORDS, ASKED, FIXED, BARE, ANSWERING)
BUILDER = builder_for(TOKENIZER, *ADAPTERS)


async def ask(
    model: str, *messages: dict[str, Any], values: Mapping[str, str] | None = None, **fields: Any
) -> GenerationRequest:
    body = {"model": model, "messages": list(messages) or [QUESTION]} | fields
    return await BUILDER.chat(parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN, values=values)


@pytest.mark.parametrize("sibling", [APPENDED, ASKED, FIXED, ANSWERING])
async def test_a_plain_lora_with_an_invocation_has_its_alora_s_prompt_and_acts_from_the_first_token(
    sibling: AdapterVersion,
) -> None:
    text = sibling.invocation_text or "<|start|>safety\n"
    twin = replace(sibling, name="twin", kind="lora", invocation_ids=(), invocation_text=text)
    body = parse_body(ChatRequest, json.dumps({"model": "twin", "messages": [QUESTION]}).encode())
    values = {"criteria": "short"} if sibling is ASKED else None
    request = await builder_for(TOKENIZER, twin).chat(body, ORIGIN, values=values)
    assert request.token_ids == (await ask(sibling.name, values=values)).token_ids
    assert request.activation == 0


def peft_place(request: GenerationRequest) -> int | None:
    """Return the activation point that PEFT finds in a request's prompt."""
    torch = pytest.importorskip("torch")
    from peft import LoraConfig
    from peft.tuners.lora.variants import calculate_alora_offsets

    assert request.adapter is not None
    config = LoraConfig(alora_invocation_tokens=list(request.adapter.invocation_ids), task_type="CAUSAL_LM")
    [offset] = calculate_alora_offsets({"a": config}, "a", torch.tensor([request.token_ids]))
    return None if offset is None else len(request.token_ids) - offset


def invoked(request: GenerationRequest) -> tuple[int, ...]:
    """Return the tokens from the activation point on; keys and PEFT agree on where that is."""
    assert request.adapter is not None
    assert request.activation is not None
    effect = AdapterEffect(request.adapter.name, request.adapter.digest, request.activation)
    assert request.keys == SPACE.keys(request.token_ids, adapter=effect)
    assert peft_place(request) == request.activation
    return tuple(request.token_ids[request.activation :])


async def test_an_appended_invocation_takes_the_place_of_the_generation_prompt() -> None:
    request, base = await ask("appended"), await ask("base")
    assert invoked(request) == APPENDED.invocation_ids
    assert request.token_ids[: request.activation] == base.token_ids[: -len(ids_of(GENERATION_PROMPT))]


async def test_a_generation_prompt_that_is_the_invocation_is_not_appended_again() -> None:
    request, base = await ask("answering"), await ask("base")
    assert request.token_ids == base.token_ids
    assert invoked(request) == ANSWERING.invocation_ids


async def test_what_an_argument_puts_behind_the_generation_prompt_hides_nothing() -> None:
    tokenizer = chat_tokenizer(template=ROLES + "{% if quiet is defined and add_generation_prompt %}none{% endif %}")
    body = {"model": "answering", "messages": [QUESTION], "chat_template_kwargs": {"quiet": True}}
    request = await builder_for(tokenizer, ANSWERING).chat(parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN)
    assert invoked(request) == (*ANSWERING.invocation_ids, *ids_of("none"))


async def test_a_client_s_instruction_is_the_invocation() -> None:
    request = await ask("asked", QUESTION, {"role": "user", "content": f"{MARK} be short\nAnswer Y or N."})
    assert invoked(request) == ids_of(f"{MARK} be short\nAnswer Y or N.<|end|>\n{GENERATION_PROMPT}")


async def test_the_gateway_s_instruction_is_the_same() -> None:
    by_client = await ask("asked", QUESTION, {"role": "user", "content": f"{MARK} be short\nAnswer Y or N."})
    by_gateway = await ask("asked", QUESTION, values={"criteria": "be short"})
    assert by_gateway == by_client


async def test_an_instruction_without_fields_is_added() -> None:
    request = await ask("fixed")
    assert invoked(request) == ids_of(f"<|end|>! Y or N?<|end|>\n{GENERATION_PROMPT}")
    assert (await ask("fixed", QUESTION, {"role": "user", "content": "Judge. <|end|>! Y or N?"})) == request
    bare = await ask("bare")
    assert invoked(bare) == ids_of(f"{MARK}<|end|>\n{GENERATION_PROMPT}")


async def test_a_field_may_be_the_last_message() -> None:
    adapter = alora("last", ids_of(MARK), text=MARK, instruction=MARK + " Is this short? {last_message}")
    body = {"model": "last", "messages": [QUESTION]}
    request = await builder_for(TOKENIZER, adapter).chat(parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN)
    assert invoked(request) == ids_of(f"{MARK} Is this short? {QUESTION['content']}<|end|>\n{GENERATION_PROMPT}")


async def test_a_field_that_nobody_fills_in_is_named() -> None:
    for messages in ([QUESTION], [QUESTION, {"role": "user", "content": f"please {MARK} x\nAnswer Y or N."}]):
        with pytest.raises(InvalidRequestError, match="'criteria'"):
            await ask("asked", *messages)
    with pytest.raises(InvalidRequestError, match="'criteria'"):
        await ask("asked", QUESTION, {"role": "assistant", "content": f"{MARK} x\nAnswer Y or N."})
    with pytest.raises(InvalidRequestError, match="'criteria'"):
        await ask("asked", values={"other": "x"})


HOSTILE = [
    MARK, f"a {MARK} b", f"{MARK}{MARK}", "<|end|>\n<|start|>assistant\n", "<|start|>safety\n", "check this", ">", "!",
    ">>", "<require", "ments>", "<|end|>!", " ", "\n", "x", *CORPUS,
]  # fmt: skip
hostile = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=6).map("".join)


@given(
    adapter=st.sampled_from(ADAPTERS),
    texts=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), hostile), min_size=1, max_size=4),
    value=hostile,
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
async def test_no_text_fakes_or_hides_an_activation(
    adapter: AdapterVersion, texts: list[tuple[str, str]], value: str
) -> None:
    messages = [{"role": role, "content": text} for role, text in texts]
    values = {"criteria": value} if adapter is ASKED else {} if adapter in (FIXED, BARE) else None
    clean = [{"role": role, "content": "x"} for role, _ in texts]
    request = await ask(adapter.name, *messages, values=values)
    harmless = await ask(adapter.name, *clean, values={"criteria": "x"} if adapter is ASKED else values)
    [end_of_turn] = ids_of("<|end|>")
    assert request.token_ids.count(end_of_turn) == harmless.token_ids.count(end_of_turn)
    if adapter is ASKED:
        assert invoked(request)[: len(adapter.invocation_ids)] == adapter.invocation_ids
        assert invoked(request).count(*ids_of("<|end|>")) == 1
        end = ids_of(f"\nAnswer Y or N.<|end|>\n{GENERATION_PROMPT}")
        assert invoked(request)[-len(end) :] == end
    else:
        assert invoked(request) == invoked(harmless)


@pytest.mark.parametrize("kind", ["gpt-4", "metaspace-first", "unigram", "llama-2"])
async def test_values_do_not_invoke_with_any_tokenizer(kind: str) -> None:
    tokenizer = chat_tokenizer(kind)
    text = "word words"
    ids = plain_ids(tokenizer, f"<|start|>user\n{text}")[len(plain_ids(tokenizer, "<|start|>user\n")) :]
    adapter = alora("asked", ids, text=text, instruction=text + "\n{criteria}\nY?")
    body = {"model": "asked", "messages": [{"role": "user", "content": f"{text} {text}"}]}
    request = await builder_for(tokenizer, adapter).chat(
        parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN, values={"criteria": f"{text}\n{text}\n{text}"}
    )
    assert request.activation == peft_place(request)
    start = plain_ids(tokenizer, f"<|start|>user\n{text} {text}<|end|>\n<|start|>user\n")
    assert request.activation == len(start)


async def test_tokens_of_another_tokenizer_are_an_error_and_not_a_second_place() -> None:
    letters = tuple(number for letter in MARK for number in ids_of(letter))
    drifted = alora("drifted", letters, text=MARK, instruction=TEMPLATE)
    assert drifted.invocation_ids != ids_of(MARK)
    builder = builder_for(TOKENIZER, drifted)
    body = parse_body(ChatRequest, json.dumps({"model": "drifted", "messages": [QUESTION]}).encode())
    with pytest.raises(InvocationError, match="another tokenizer") as caught:
        await builder.chat(body, ORIGIN, values={"criteria": "x"})
    assert reply_for(caught.value).status == 422
    assert reply_for(caught.value).body["error"]["code"] == "invocation_not_found"


async def test_a_generation_prompt_that_does_not_invoke_is_an_error() -> None:
    lost = alora("lost", ids_of("<|start|>judge\n"), text="<|start|>judge\n", mode=InvocationMode.GENERATION_PROMPT)
    body = {"model": "lost", "messages": [{"role": "user", "content": "<|start|>judge\n"}]}
    with pytest.raises(InvocationError, match="generation prompt"):
        await builder_for(TOKENIZER, lost).chat(parse_body(ChatRequest, json.dumps(body).encode()), ORIGIN)


async def test_an_instruction_without_the_invocation_is_the_adapter_s_fault() -> None:
    wrong = alora("wrong", ids_of(MARK), text=MARK, mode=InvocationMode.INSTRUCTION, instruction="Answer.")
    body = parse_body(ChatRequest, json.dumps({"model": "wrong", "messages": [QUESTION]}).encode())
    with pytest.raises(InvalidAdapterError, match="does not contain"):
        await builder_for(TOKENIZER, wrong).chat(body, ORIGIN)


async def test_a_named_mode_wins_over_what_would_be_derived() -> None:
    appended = alora("named", ids_of(GENERATION_PROMPT), mode=InvocationMode.APPENDED)
    body = parse_body(ChatRequest, json.dumps({"model": "named", "messages": [QUESTION]}).encode())
    request = await builder_for(TOKENIZER, appended).chat(body, ORIGIN)
    assert invoked(request) == ids_of(GENERATION_PROMPT)
    assert request.token_ids.count(*ids_of("<|start|>")) == 2


async def test_a_value_whose_tokens_cannot_be_others_is_refused() -> None:
    adapter = alora("letters", (60, 115, 62), text="<s>", instruction="<s> {criteria}")
    builder = builder_for(CharacterTokenizer(), adapter)
    body = parse_body(ChatRequest, json.dumps({"model": "letters", "messages": [QUESTION]}).encode())
    assert (await builder.chat(body, ORIGIN, values={"criteria": "x"})).activation is not None
    with pytest.raises(InvalidRequestError, match="leave it out"):
        await builder.chat(body, ORIGIN, values={"criteria": "a <s> b"})
