"""Every field of vLLM's requests is known here, and its default asks for nothing."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.field_table import field_names, treatment
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.response_request import ResponsesRequest
from aloraserve.wire.sampling_fields import StreamOptions
from aloraserve.wire.tokenize import DetokenizeRequest, TokenizeRequest

with warnings.catch_warnings():
    # Of the libraries that it imports.
    warnings.simplefilter("ignore")
    from vllm.entrypoints.generate.base.protocol import StreamOptions as TheirStreamOptions
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest as TheirChat
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest as TheirCompletion
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest as TheirResponse
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest as TheirDetokenized
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest as TheirTokenizedChat
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeCompletionRequest as TheirTokenizedPrompt
    from vllm.renderers.chat_utils import CustomChatCompletionMessageParam

CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
COMPLETION: dict[str, Any] = {"model": "base", "prompt": "x"}
GENERATED = {"request_id"}
"""Their default is another one for each request."""
FIELDS = [
    (ours, base, name, field.get_default(call_default_factory=True))
    for ours, base, theirs in (
        (ChatRequest, CHAT, TheirChat),
        (CompletionRequest, COMPLETION, TheirCompletion),
        (ResponsesRequest, {"model": "base", "input": "x"}, TheirResponse),
        (TokenizeRequest, {"messages": CHAT["messages"]}, TheirTokenizedChat),
        (TokenizeRequest, {"prompt": "x"}, TheirTokenizedPrompt),
        (DetokenizeRequest, {"tokens": [1]}, TheirDetokenized),
    )
    for name, field in theirs.model_fields.items()
    if name not in base
]


@pytest.mark.parametrize(
    ("ours", "base", "name", "default"), FIELDS, ids=[f"{ours.__name__}-{name}" for ours, _, name, _ in FIELDS]
)
def test_every_field_of_vllm_is_known_and_its_default_asks_for_nothing(
    ours: type[Any], base: dict[str, Any], name: str, default: object
) -> None:
    assert name in field_names(ours)
    assert treatment(ours, name)[0] in ("served", "ignored", "refused")
    if name not in GENERATED:
        request = parse_body(ours, json.dumps(base | {name: default}).encode())
        assert request.ignored == ()
        assert getattr(request, "temperature", None) is None


def test_messages_and_options_have_vllm_s_fields() -> None:
    assert set(CustomChatCompletionMessageParam.__annotations__) <= set(field_names(ChatMessage))
    assert set(TheirStreamOptions.model_fields) <= set(field_names(StreamOptions))
