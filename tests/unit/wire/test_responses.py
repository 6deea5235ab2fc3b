"""Responses: the openai client reads what these models write."""

from __future__ import annotations

import json
from pathlib import Path

from openai.types import Completion as OpenAICompletion
from openai.types import Model
from openai.types.chat import ChatCompletion as OpenAIChat
from openai.types.chat import ChatCompletionChunk as OpenAIChunk

from aloraserve.adapters import AdapterVersion, ServedName
from aloraserve.wire import ChatCompletion, ChatCompletionChunk, Completion, ModelEntry, ModelList, Usage
from aloraserve.wire.chat_answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    ChatTopLogprob,
)
from aloraserve.wire.completions import CompletionChoice, CompletionLogprobs

USAGE = Usage.of(prompt_tokens=10, completion_tokens=2, cached_tokens=8)
TOKEN = ChatTokenLogprob(
    token="a", logprob=-0.5, bytes=[97], top_logprobs=[ChatTopLogprob(token="b", logprob=-1.0, bytes=[98])]
)


def test_a_chat_completion_is_openai_s() -> None:
    choice = ChatChoice(
        index=0,
        message=AssistantMessage(content="a"),
        logprobs=ChatLogprobs(content=[TOKEN]),
        finish_reason="length",
    )
    ours = ChatCompletion(id="c", created=1, model="m", choices=[choice], usage=USAGE)
    theirs = OpenAIChat.model_validate_json(ours.to_json())
    assert theirs.choices[0].message.content == "a"
    assert theirs.choices[0].logprobs is not None
    assert theirs.usage is not None
    assert theirs.usage.prompt_tokens_details is not None
    assert theirs.usage.prompt_tokens_details.cached_tokens == 8
    assert theirs.usage.total_tokens == 12


def test_a_chunk_leaves_out_what_it_does_not_add() -> None:
    chunk = ChatCompletionChunk(
        id="c", created=1, model="m", choices=[ChatChunkChoice(index=0, delta=ChatDelta(content="a"))]
    )
    body = json.loads(chunk.to_json())
    assert body["choices"][0]["delta"] == {"content": "a"}
    assert "usage" not in body
    assert body["choices"][0]["finish_reason"] is None
    assert OpenAIChunk.model_validate(body).choices[0].delta.content == "a"


def test_a_completion_is_openai_s() -> None:
    logprobs = CompletionLogprobs(tokens=["a"], token_logprobs=[-0.5], top_logprobs=[{"b": -1.0}], text_offset=[0])
    choice = CompletionChoice(index=0, text="a", logprobs=logprobs, finish_reason="stop")
    ours = Completion(id="c", created=1, model="m", choices=[choice], usage=USAGE)
    assert OpenAICompletion.model_validate_json(ours.to_json()).choices[0].text == "a"


def test_a_model_list_says_what_each_name_is() -> None:
    entries = [
        ModelEntry(id="base", created=1, root="base"),
        ModelEntry(id="safety", created=1, root="safety", parent="base", kind="alora"),
    ]
    body = json.loads(ModelList(data=entries).to_json())
    assert [Model.model_validate(entry).id for entry in body["data"]] == ["base", "safety"]
    assert body["data"][1]["kind"] == "alora"
    assert body["data"][1]["parent"] == "base"


def test_a_model_list_says_what_is_untrained_and_what_engines_compute_in() -> None:
    version = AdapterVersion("safety", "lora", Path("safety"), 4, ("q_proj",), (), "0" * 64, untrained=True)
    served = [ServedName("safety", "safety", version)]
    base, adapter = ModelList.of("base", served, created=1, dtype="float32").data
    assert (base.untrained, adapter.untrained) == (False, True)
    assert base.dtype == adapter.dtype == "float32"
