"""Requests to which this platform and ``vllm serve`` answer alike: ``test_vllm_parity.py`` sends them to both.

A case is an endpoint's name and the fields of a body beside the model and ``temperature`` 0. Add yours to a list.
"""

from __future__ import annotations

from typing import Any

Case = tuple[str, dict[str, Any]]

FERRY = [{"role": "user", "content": "Write one sentence about a ferry."}]
TALK = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]
IDS = [504, 2365, 351, 253, 3365, 1743]
PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def chat(**fields: Any) -> Case:
    """Return a chat."""
    return "chat/completions", {"messages": FERRY, "max_tokens": 8} | fields


def text(**fields: Any) -> Case:
    """Return a completion."""
    return "completions", {"prompt": "The ferry to the island", "max_tokens": 8} | fields


def streamed(case: Case, **options: Any) -> Case:
    """Return a case as a stream that ends with its usage."""
    endpoint, fields = case
    return endpoint, fields | {"stream": True, "stream_options": {"include_usage": True} | options}


SAMPLING: list[dict[str, Any]] = [
    {},
    {"max_tokens": 1},
    {"top_p": 0.5, "top_k": 5, "min_p": 0.1, "seed": 3},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"logit_bias": {"28": 100, "30": -100}, "max_tokens": 3},
    {"logit_bias": {"28": 5.5}},
    {"allowed_token_ids": [28, 30, 216, 253, 314]},
    {"bad_words": ["ferry", "the"]},
    {"min_tokens": 6, "stop": [" "]},
    {"min_tokens": 8, "ignore_eos": True},
    {"stop": "e"},
    {"stop": ["zzz", "a", "b", "c"], "include_stop_str_in_output": True},
    {"stop_token_ids": [253, 281, 314, 28, 30]},
    {"stop_token_ids": [253, 281, 314, 28, 30], "include_stop_str_in_output": True},
    {"skip_special_tokens": False, "spaces_between_special_tokens": False},
    {"return_token_ids": True},
    {"truncate_prompt_tokens": 4},
    {"truncate_prompt_tokens": 4, "truncation_side": "right"},
    {"truncate_prompt_tokens": -1},
    {"stream_interval": 4, "user": "u", "metadata": {}},
    {"best_of": 1, "suffix": "", "colour": "red"},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}, "max_tokens": 6},
    {"structured_outputs": {"choice": ["yes", "no"]}},
    {"structured_outputs": {"regex": "[0-9]{3}"}, "return_token_ids": True},
    {"structured_outputs": {"json": PERSON}, "max_tokens": 12},
]
CASES: list[Case] = [
    *(chat(**fields) for fields in SAMPLING),
    *(text(**fields) for fields in SAMPLING if "best_of" not in fields),
    *(streamed(chat(**SAMPLING[number])) for number in (0, 3, 11, 12, 13, 16, 20)),
    *(streamed(text(**SAMPLING[number])) for number in (0, 3, 11, 12, 14, 16, 20)),
    streamed(text(), continuous_usage_stats=True),
    streamed(chat(), continuous_usage_stats=True),
    chat(messages=TALK, max_completion_tokens=4, max_tokens=4),
    chat(messages=TALK, max_tokens=8192),
    chat(logprobs=True),
    chat(logprobs=True, top_logprobs=3),
    chat(logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True),
    chat(prompt_logprobs=2, max_tokens=2),
    streamed(chat(logprobs=True, top_logprobs=1)),
    text(logprobs=0),
    text(logprobs=4),
    text(logprobs=2, return_tokens_as_token_ids=True),
    text(prompt_logprobs=1, max_tokens=2),
    text(prompt=IDS),
    text(prompt=[IDS, IDS[:3]]),
    text(prompt=["The sea", "A boat"], logprobs=1),
    text(echo=True),
    text(echo=True, prompt=IDS),
    text(echo=True, logprobs=2),
    text(echo=True, logprobs=1, max_tokens=0, prompt=IDS),
    text(echo=True, logprobs=1, max_tokens=1, prompt=[IDS, IDS[1:]]),
    text(echo=True, max_tokens=0),
    text(echo=True, return_token_ids=True, logprobs=0),
    streamed(text(echo=True, logprobs=1)),
    streamed(text(logprobs=2)),
]
ERRORS: list[Case] = [
    chat(messages=[]),
    chat(temperature=-1),
    chat(temperature=2.5),
    chat(top_p=0),
    chat(top_k=-2),
    chat(min_p=2),
    chat(repetition_penalty=0),
    chat(presence_penalty=3),
    chat(max_tokens=0),
    chat(max_tokens=10**5),
    chat(min_tokens=9, max_tokens=8),
    chat(n=0),
    chat(stop=[""]),
    chat(logit_bias={"x": 1}),
    chat(logit_bias={"49152": 1}),
    chat(stop_token_ids=[49152]),
    chat(allowed_token_ids=[49152]),
    chat(logprobs=True, top_logprobs=21),
    chat(top_logprobs=2),
    chat(prompt_logprobs=1, stream=True),
    chat(response_format={"type": "xml"}),
    chat(structured_outputs={"regex": "a", "choice": ["a"]}),
    chat(truncate_prompt_tokens=10**5),
    chat(stream_options={"include_usage": True}),
    text(prompt=""),
    text(prompt=[]),
    text(prompt=[49152]),
    text(prompt=[5] * 9000),
    text(max_tokens=0),
    text(logprobs=-2),
    text(prompt=[IDS, ["a"]]),
]
