"""A request means to this platform's engine what it means to ``vllm serve``: the same parameters, field by field."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from aloraserve.serving.sampling_rules import SamplingRules
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.sampling import NEUTRAL, SamplingDefaults
from aloraserve_services.engine.vllm.sampling_params import sampling_params

with warnings.catch_warnings():
    # Of the libraries that it imports.
    warnings.simplefilter("ignore")
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest as TheirChat
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest as TheirCompletion
    from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
    from vllm.exceptions import VLLMValidationError

CONTEXT, PROMPT = 512, 40
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
COMPLETION: dict[str, Any] = {"model": "base", "prompt": [1] * PROMPT}
MODEL = {"temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.2, "max_tokens": 100}
"""As ``get_diff_sampling_param`` returns it."""
pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated")
OURS_ALONE = {"output_kind", "skip_clone", "stream_interval"}
"""Answers that are not streamed come in deltas too here; 1 is as good as no interval."""
BOTH: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.2},
    {"temperature": 1.5, "top_p": 0.5, "top_k": -1, "min_p": 0.2, "seed": 7},
    {"top_k": 0, "min_p": 0, "repetition_penalty": 1.0},
    {"repetition_penalty": 1.3, "presence_penalty": -1, "frequency_penalty": 2},
    {"presence_penalty": 0, "frequency_penalty": 0},
    {"n": 3},
    {"max_tokens": 5, "min_tokens": 5, "ignore_eos": True},
    {"max_tokens": 500},
    {"stop": "a"},
    {"stop": ["a", "b"], "include_stop_str_in_output": True},
    {"stop_token_ids": [3, 4, 3]},
    {"logit_bias": {"5": 200, "6": -0.5}},
    {"allowed_token_ids": [1, 2]},
    {"bad_words": ["x", "yes no"]},
    {"skip_special_tokens": False, "spaces_between_special_tokens": False},
    {"prompt_logprobs": 3},
    {"structured_outputs": {"regex": "a+"}},
    {"stream_interval": 1, "stream": True},
]
CASES = [
    *((ChatRequest, TheirChat, CHAT | fields) for fields in BOTH),
    *((CompletionRequest, TheirCompletion, COMPLETION | fields) for fields in BOTH),
    (ChatRequest, TheirChat, CHAT | {"logprobs": True, "top_logprobs": 4}),
    (ChatRequest, TheirChat, CHAT | {"logprobs": True}),
    (ChatRequest, TheirChat, CHAT | {"max_completion_tokens": 9}),
    (CompletionRequest, TheirCompletion, COMPLETION | {"logprobs": 0}),
    (CompletionRequest, TheirCompletion, COMPLETION | {"logprobs": 2, "echo": True}),
    (CompletionRequest, TheirCompletion, COMPLETION | {"logprobs": 2, "echo": True, "max_tokens": 0}),
    (CompletionRequest, TheirCompletion, COMPLETION | {"logprobs": 2, "prompt_logprobs": 1, "echo": True}),
]


@pytest.mark.parametrize("defaults", [{}, MODEL], ids=["neutral", "model"])
@pytest.mark.parametrize(("ours", "theirs", "body"), CASES)
def test_a_request_has_vllm_s_parameters(
    ours: type[Any], theirs: type[Any], body: dict[str, Any], defaults: dict[str, Any]
) -> None:
    rules = SamplingRules(CONTEXT, 1000, SamplingDefaults(**defaults) if defaults else NEUTRAL)
    default_tokens = 16 if ours is CompletionRequest else None
    request = parse_body(ours, json.dumps(body).encode())
    found = sampling_params(rules.settings(request, PROMPT, "prompt", default_tokens))
    wanted = _wanted(theirs(**body), defaults)
    names = [name for name in type(wanted).__struct_fields__ if name not in OURS_ALONE]
    assert {name: _plain(getattr(found, name)) for name in names} == {
        name: _plain(getattr(wanted, name)) for name in names
    }


def _wanted(request: Any, defaults: dict[str, Any]) -> Any:
    """Return what vLLM makes of a request, as its ``serving.py`` does."""
    asked = getattr(request, "max_completion_tokens", None)
    asked = request.max_tokens if asked is None else asked
    return request.to_sampling_params(get_max_tokens(CONTEXT, asked, PROMPT, defaults), defaults)


def _plain(value: Any) -> Any:
    """Return a value in which empty and None are one."""
    return None if value in ([], {}, ()) else value


def test_several_greedy_choices_are_one_for_vllm() -> None:
    """It refuses them; OpenAI's API does not."""
    rules = SamplingRules(CONTEXT, 1000)
    request = parse_body(ChatRequest, json.dumps(CHAT | {"n": 3, "temperature": 0}).encode())
    sampling = rules.settings(request, PROMPT, "messages", None)
    assert (sampling.n, sampling_params(sampling).n) == (3, 1)
    with pytest.raises(VLLMValidationError, match="n must be 1"):
        _wanted(TheirChat(**CHAT, n=3, temperature=0), {})
