"""The base model's own answer invokes an adapter, on real engines: the parts are what separate calls would be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.self_invoked import ask_auto, put_invoked_by

BASE = "SmolLM2-135M-Instruct"
NAME = "self-invoked"
QUESTION = [{"role": "user", "content": "Tell me about lighthouses. " * 20}]
BLOCK = 32
SAID, ADDED, MOST = 36, 5, 48
"""Tokens of the base model up to the invocation's end, of the adapter, and of the answer."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def served(platform: Any) -> bool:
    return NAME in [entry["id"] for entry in platform.http.get("/v1/models").json()["data"]]


def test_an_answer_goes_on_as_the_adapter_on_cached_kv_and_returns(platform: Any, adapters_dir: Path) -> None:
    prompt = platform.prompt(QUESTION)
    alone = platform.complete(BASE, prompt, SAID)
    said = platform.tokenizer(alone.text, add_special_tokens=False)["input_ids"]
    assert len(said) == SAID
    try:
        put_invoked_by(adapters_dir / "safety", adapters_dir, NAME, said[-3:], max_tokens=ADDED)
        platform.wait_until(lambda: served(platform), 120, "the added adapter to be served")
        platform.settle()
        answer = ask_auto(platform.http, BASE, QUESTION, MOST)
        adapter = platform.complete(NAME, [*prompt, *said], ADDED)
        added = platform.tokenizer(adapter.text, add_special_tokens=False)["input_ids"]
        again = platform.complete(BASE, [*prompt, *said, *added], MOST - SAID - ADDED)
        assert answer["choices"][0]["message"]["content"] == alone.text + adapter.text + again.text
        assert answer["choices"][0]["finish_reason"] == "length"
        usage = answer["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt), MOST)
        receipts = [
            platform.http.get(f"/v1/receipts/{answer['id'].removeprefix('chatcmpl-')}{end}").json()
            for end in ("", "-1", "-2")
        ]
        assert [receipt["adapter"] for receipt in receipts] == [None, NAME, None]
        # All whole blocks before the invocation, those that were generated included.
        assert receipts[1]["cached_tokens"] >= (len(prompt) + SAID - 3) // BLOCK * BLOCK
        assert len({receipt["replica"] for receipt in receipts}) == 1
    finally:
        shutil.rmtree(adapters_dir / NAME, ignore_errors=True)
        platform.wait_until(lambda: not served(platform), 120, "the removed adapter to be gone")
