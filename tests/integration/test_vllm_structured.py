"""A vLLM engine holds answers to their form, with and without an aLoRA, and no form harms it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import pytest
from support.chat_tokenizers import chat_tokenizer
from support.model import smollm2

from aloraserve.adapters import AdapterVersion
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal
from aloraserve.serving.tools import FORMATS, ToolUse
from aloraserve.settings import load_settings
from aloraserve.wire.sampling import SamplingSettings
from aloraserve.wire.structured import StructuredOutput
from aloraserve.wire.tool_forms import forced_form
from aloraserve.wire.tools import ChosenFunction, FunctionDefinition, NamedToolChoice, Tool
from aloraserve_services.engine.adapters import EngineAdapters
from aloraserve_services.engine.opening import open_vllm
from aloraserve_services.engine.vllm.engine import VllmEngine
from aloraserve_services.models.untrained import invocation_text, write_untrained_adapters
from aloraserve_services.plan import make_plan

pytestmark = [pytest.mark.engine, pytest.mark.untimed, pytest.mark.timeout(600)]

VERDICT = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "score": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["answer", "score"],
    "additionalProperties": False,
}
RATING = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 9}}}
TOOL = Tool(
    type="function",
    function=FunctionDefinition(
        name="rate", parameters=RATING | {"required": ["score"], "additionalProperties": False}
    ),
)
NAMED = NamedToolChoice(type="function", function=ChosenFunction(name="rate"))
HERMES = (
    "It is late.",
    'I look.\n<tool_call>\n{"name": "rate", "arguments": {"score": 7, "why": "a } in a \\"text\\""}}\n</tool_call>',
    '<tool_call>{"name": "rate", "arguments": {}}</tool_call><tool_call>{"name": "b", "arguments": {}}</tool_call>',
    "<tool_call>nothing</tool_call>",
)
FORMS: list[Any] = [
    StructuredOutput("json", json.dumps(VERDICT)),
    StructuredOutput("json", '{"enum": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}'),
    forced_form([TOOL], "required", is_parallel=False),
    forced_form([TOOL], NAMED, is_parallel=False),
    StructuredOutput("choice", choices=("answerable", "unanswerable")),
    StructuredOutput("regex", r"[YN]"),
    StructuredOutput("grammar", 'root ::= "yes" | "no"'),
]
MANY = {"anyOf": [{"type": "object", "properties": {f"p{i}": {"type": "integer"}}} for i in range(500)]}
NEVER = [
    # Compiles; the engine could not follow it, and the answer would be empty.
    StructuredOutput("json", json.dumps(MANY)),
    StructuredOutput("json", '{"type": "strin"}'),
    StructuredOutput("regex", "(a"),
    StructuredOutput("grammar", "start: nothing"),
]


def fits(form: StructuredOutput, text: str) -> bool:
    if form.kind == "json":
        jsonschema.validate(json.loads(text), json.loads(form.text))
        return True
    return bool(re.fullmatch("|".join(form.choices) or {"regex": form.text}.get(form.kind, "yes|no"), text))


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Keep what an engine sets in its process's environment from the tests after these."""
    with patch.dict(os.environ):
        yield


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[VllmEngine, AdapterVersion, Any]]:
    """Start an engine with an aLoRA; the last is the model's tokenizer."""
    from transformers import AutoTokenizer

    model = smollm2(folder, "float32")
    write_untrained_adapters(folder / "adapters", model, 0, ["safety"])
    plan = make_plan(
        load_settings(
            model=str(model),
            dtype="float32",
            adapters_dir=folder / "adapters",
            state_dir=folder,
            max_model_len=512,
            max_num_seqs=8,
        )
    )
    parts = open_vllm(plan)
    try:
        registry = plan.open_registry()
        await EngineAdapters(parts.engine, registry).load()
        yield parts.engine, registry.resolve("safety"), AutoTokenizer.from_pretrained(str(model))
    finally:
        parts.engine.shutdown()
        parts.events.close()


async def test_answers_have_their_form_and_what_has_none_fails_alone(tmp_path: Path) -> None:
    """One engine for all of it, as it takes most of the time to start."""
    async with started(tmp_path) as (engine, safety, tokenizer):

        async def answer(form: StructuredOutput, adapter: AdapterVersion | None, name: str) -> list[Any]:
            text = "<|im_start|>user\nIs a 🦙 an animal?<|im_end|>\n" + invocation_text("safety")
            sampling = SamplingSettings(max_tokens=40, temperature=0, logprobs=3, structured=form)
            ref = None if adapter is None else adapter.ref
            call = EngineCall(name, tokenizer(text, add_special_tokens=False)["input_ids"], sampling, ref)
            return [reply async for reply in engine.generate(call)]

        asked = [(form, adapter) for form in FORMS for adapter in (None, safety)]
        answers = await asyncio.gather(*(answer(*call, f"call-{number}") for number, call in enumerate(asked)))
        for (form, _), chunks in zip(asked, answers, strict=True):
            check(form, chunks)

        refused = await asyncio.gather(
            *(answer(form, None, f"never-{number}") for number, form in enumerate(NEVER)),
            answer(FORMS[0], safety, "beside them"),
        )
        assert all(isinstance(reply, EngineRefusal) for replies in refused[:-1] for reply in replies)
        check(FORMS[0], refused[-1])
        assert not engine.is_dead


@pytest.mark.parametrize("answer", HERMES)
def test_calls_are_read_as_vllm_reads_them(answer: str) -> None:
    from vllm.tool_parsers import ToolParserManager

    theirs = ToolParserManager.get_tool_parser("hermes")(chat_tokenizer()).extract_tool_calls(answer, None)
    reader = ToolUse(frozenset({"rate", "b"}), FORMATS["hermes"]).reader()
    heard = [reader.hear(answer), reader.end()]
    assert "".join(part.text for part in heard) == (theirs.content or "")
    calls = [(call.name, json.loads(call.arguments)) for part in heard for call in part.calls]
    assert calls == [(call.function.name, json.loads(call.function.arguments)) for call in theirs.tool_calls]


def check(form: StructuredOutput, chunks: Sequence[Any]) -> None:
    """Assert that an answer has its form, ends by itself, and is what its tokens say."""
    assert all(isinstance(chunk, EngineChunk) for chunk in chunks), chunks
    text = "".join(chunk.text for chunk in chunks)
    assert fits(form, text), text
    assert chunks[-1].finish_reason == "stop"
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert "".join(token.chosen.token for token in tokens) == text
    assert bytes(byte for token in tokens for byte in token.chosen.utf8) == text.encode()
    assert {len(token.alternatives) for token in tokens} == {3}
