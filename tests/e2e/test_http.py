"""The HTTP API against the real platform: OpenAI's client, streams, listings, and every kind of bad input."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

BASE = "SmolLM2-135M-Instruct"
HELLO = [{"role": "user", "content": "Say hello."}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"

pytestmark = pytest.mark.e2e


def post(platform: Any, path: str, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return platform.http.post(path, content=content, headers={"content-type": "application/json", **headers})


def test_a_stream_and_a_whole_answer_say_the_same(platform: Any) -> None:
    messages = [{"role": "user", "content": "Write a long story about a ferry."}]
    asked: dict[str, Any] = {"model": BASE, "messages": messages, "max_tokens": 12, "temperature": 0}
    whole = platform.openai.chat.completions.create(**asked)
    parts = list(platform.openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for part in parts for choice in part.choices)
    assert text == whole.choices[0].message.content
    assert len([part for part in parts if part.choices]) > 3, "it has to come in parts"
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 12
    reasons = [choice.finish_reason for part in parts for choice in part.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason] == ["length"]


def test_a_streamed_completion_carries_log_probabilities(platform: Any) -> None:
    asked: dict[str, Any] = {"model": BASE, "prompt": "The ferry", "max_tokens": 5, "temperature": 0, "logprobs": 2}
    whole = platform.openai.completions.create(**asked)
    parts = list(platform.openai.completions.create(**asked, stream=True))
    streamed = [token for part in parts for token in part.choices[0].logprobs.tokens]
    assert streamed == whole.choices[0].logprobs.tokens
    assert len(streamed) == 5
    assert all(2 <= len(one) <= 3 for one in whole.choices[0].logprobs.top_logprobs)
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text


def test_log_probabilities_of_parts_of_characters_are_told_apart_and_add_up(platform: Any) -> None:
    llamas = "\U0001f999" * 4 + " \U0001f999"
    asked: dict[str, Any] = {"model": BASE, "max_tokens": 12, "temperature": 0}
    listed = platform.openai.completions.create(prompt=llamas, logprobs=5, **asked).choices[0].logprobs
    assert all(len(alternatives) >= 5 for alternatives in listed.top_logprobs)
    messages = [{"role": "user", "content": f"Repeat: {llamas}"}]
    chat = platform.openai.chat.completions.create(messages=messages, logprobs=True, top_logprobs=5, **asked).choices[0]
    tokens = chat.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode("utf-8", "ignore") == chat.message.content
    assert all(len({tuple(other.bytes) for other in token.top_logprobs}) == 5 for token in tokens)


def test_log_probabilities_of_a_cached_prompt_are_whole(platform: Any) -> None:
    """They are not cached with its blocks, so such a call reads none, and says so."""
    ids = list(range(3000, 3080))
    for _ in "ab":
        platform.complete(BASE, ids)
    asked: dict[str, Any] = {"model": BASE, "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 0}
    answers = [platform.openai.completions.create(**asked, echo=True) for _ in "ab"]
    for answer in answers:
        first, *others = answer.choices[0].logprobs.token_logprobs
        assert (first, len(others), None in others) == (None, len(ids), False)
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answers[0].choices[0].logprobs.token_logprobs[1:] == pytest.approx(
        answers[1].choices[0].logprobs.token_logprobs[1:], abs=1e-3
    )


def test_several_choices_differ_and_a_seed_repeats(platform: Any) -> None:
    asked: dict[str, Any] = {"model": BASE, "messages": HELLO, "max_tokens": 12, "temperature": 1.5, "n": 3, "seed": 7}
    texts = [[one.message.content for one in platform.openai.chat.completions.create(**asked).choices] for _ in "ab"]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_the_models_are_the_base_and_every_valid_adapter(platform: Any) -> None:
    found = {model.id: model.model_dump() for model in platform.openai.models.list()}
    assert set(found) == {BASE} | {
        f"{name}{end}" for name in ("uncertainty", "safety", "hallucination") for end in ("", "-lora")
    }
    assert (found[BASE]["kind"], found["safety"]["kind"], found["safety-lora"]["kind"]) == ("base", "alora", "lora")
    assert found["safety"]["parent"] == BASE


def test_a_broken_adapter_is_refused_with_its_reason_and_the_others_are_served(platform: Any) -> None:
    (refused,) = platform.replicas()["refused"]
    assert refused["name"] == "broken"
    assert "pickle" in refused["reason"]


def test_the_invocation_is_appended_whatever_the_conversation_says(platform: Any) -> None:
    invocation = platform.tokenizer.decode(platform.invocation("safety"))
    without = platform.chat("safety", HELLO)
    assert without.prompt_tokens == len(platform.prompt(HELLO, "safety"))
    ids = platform.prompt(HELLO, "safety")
    assert platform.complete("safety", ids).prompt_tokens == len(ids)
    assert platform.complete("safety", platform.prompt(HELLO)).prompt_tokens == len(platform.prompt(HELLO)) + len(
        platform.invocation("safety")
    )
    # A client's text is no invocation: it is more tokens than that has, and the platform's own one follows.
    said = [*HELLO, {"role": "user", "content": f"Hello. {invocation}"}]
    generation_prompt = len(platform.prompt(HELLO)) + len(platform.invocation("safety")) - len(ids)
    base = platform.chat(BASE, said).prompt_tokens
    assert base > len(platform.prompt(said))
    assert platform.chat("safety", said).prompt_tokens == base - generation_prompt + len(platform.invocation("safety"))


def test_a_template_argument_may_name_the_adapter(platform: Any) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "max_tokens": 6, "temperature": 0}
    extra = {"chat_template_kwargs": {"adapter_name": "safety"}}
    by_argument = platform.openai.chat.completions.create(model=BASE, extra_body=extra, **asked)
    by_model = platform.openai.chat.completions.create(model="safety", **asked)
    assert by_argument.choices[0].message.content == by_model.choices[0].message.content
    assert by_argument.usage.prompt_tokens == by_model.usage.prompt_tokens


def test_the_request_id_is_the_client_s_or_a_new_one(platform: Any) -> None:
    body = {"model": BASE, "messages": HELLO, "max_tokens": 1}
    mine = post(platform, CHAT, body, **{"x-request-id": "mine-1"})
    assert mine.headers.get_list("x-request-id") == ["mine-1"]
    assert mine.json()["id"] == "chatcmpl-mine-1"
    fresh = post(platform, CHAT, body).headers["x-request-id"]
    assert fresh != post(platform, CHAT, body).headers["x-request-id"]


def test_health_and_metrics_answer(platform: Any) -> None:
    platform.chat("safety", HELLO)
    assert platform.http.get("/healthz").text == "ok\n"
    assert platform.http.get("/readyz").text == "ready\n"
    before = _metrics(platform)
    platform.chat("safety", HELLO)
    post(platform, CHAT, {"model": "nobody", "messages": HELLO})
    after = _metrics(platform)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert grown['aloraserve_requests_total{endpoint="/v1/chat/completions",status="200"}'] == 1
    assert grown['aloraserve_requests_total{endpoint="/v1/chat/completions",status="404"}'] == 1
    assert grown['aloraserve_ttft_seconds_count{adapter="safety",kind="alora"}'] == 1
    tokens = len(platform.prompt(HELLO, "safety"))
    assert grown['aloraserve_prompt_tokens_total{adapter="safety",kind="alora"}'] == tokens


def _metrics(platform: Any) -> dict[str, float]:
    assert platform.http.get("/metrics").status_code == 404, "they are on a port of their own"
    [text] = platform.metrics("gateway")
    lines = text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("aloraserve_"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def chat(**changes: object) -> dict[str, object]:
    return {"model": BASE, "messages": HELLO, "max_tokens": 2} | changes


BAD = [
    (CHAT, b"{", 400, None, "not valid JSON"),
    (CHAT, b"[]", 400, None, "not a JSON object"),
    (CHAT, b'{"model": "x", "model": "y"}', 400, "model", "twice"),
    (CHAT, b"\xff", 400, None, "UTF-8"),
    (CHAT, {"messages": HELLO}, 400, "model", "required"),
    (CHAT, chat(messages=[]), 400, "messages", "at least 1"),
    (CHAT, chat(messages="hi"), 400, "messages", "list"),
    (CHAT, chat(messages=[{"role": "robot", "content": "x"}]), 400, "messages.0.role", "system"),
    (CHAT, chat(max_tokens=-1), 400, "max_tokens", "(-1)"),
    (CHAT, chat(max_tokens=10**6), 400, "max_tokens", "context holds 8192"),
    (CHAT, chat(max_tokens="many"), 400, "max_tokens", '("many")'),
    (CHAT, chat(temperature=9), 400, "temperature", "(9)"),
    (CHAT, chat(n=0), 400, "n", "(0)"),
    (CHAT, chat(logprobs=True, top_logprobs=99), 400, "top_logprobs", "(99)"),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "tools.0.function", "required"),
    (CHAT, chat(chat_template_kwargs={"chat_template": "{{ 1 }}"}), 400, "chat_template_kwargs", "chat_template"),
    (CHAT, chat(model="nobody"), 404, "model", "safety-lora"),
    (CHAT, chat(model="broken"), 404, "model", "'broken' is not served"),
    (TEXT, {"model": BASE, "prompt": ""}, 400, "prompt", "none is empty"),
    (TEXT, {"model": BASE, "prompt": [10**6]}, 400, "prompt", "1000000"),
    (TEXT, {"model": BASE, "prompt": [5] * 9000}, 400, "prompt", "9000 tokens; the model's context holds 8192"),
    (TEXT, {"model": BASE, "prompt": "x", "use_beam_search": True}, 400, "use_beam_search", "not supported"),
    (CHAT, chat(stop_token_ids=[49152]), 400, "stop_token_ids", "vocabulary has 49152"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "said"), BAD, ids=[str(case[4]) for case in BAD])
def test_bad_input_is_refused_by_name(
    platform: Any, path: str, body: object, status: int, param: str | None, said: str
) -> None:
    response = post(platform, path, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert "Traceback" not in response.text


def test_fields_that_nobody_knows_are_passed_over_and_named(platform: Any) -> None:
    body = chat(nonsense=1, messages=[HELLO[0] | {"mood": "good"}], **{"a\r\nb": 2})
    response = post(platform, CHAT, body)
    assert response.status_code == 200, response.text
    assert response.headers["x-aloraserve-ignored"] == "nonsense, a%0D%0Ab, messages.mood"
    assert "x-aloraserve-ignored" not in post(platform, CHAT, chat()).headers


def test_wrong_methods_and_paths_are_refused_in_openai_s_form(platform: Any) -> None:
    wrong_method = platform.http.get(CHAT)
    assert wrong_method.status_code == 405
    assert wrong_method.headers["allow"] == "POST"
    assert "POST" in wrong_method.json()["error"]["message"]
    nowhere = platform.http.post("/v1/nothing", json={})
    assert nowhere.status_code == 404
    assert "/v1/nothing" in nowhere.json()["error"]["message"]


def test_openai_s_client_sees_its_own_error_classes(platform: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        platform.openai.chat.completions.create(model="nobody", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        platform.openai.chat.completions.create(model=BASE, messages=HELLO, temperature=9)
    assert refused.value.param == "temperature"
