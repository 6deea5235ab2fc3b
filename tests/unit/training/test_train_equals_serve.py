"""What is trained on is what is served: an example's prompt is the one that an engine would get, in every mode."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.chat_tokenizers import resolver_of
from support.training_base import write_base

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.intrinsics import read_intrinsic
from aloraserve.blocks import KeySpace, activation_point
from aloraserve.errors import OverloadedError
from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.serving.intrinsics.shared_prefix import PrefixWatch
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.training import TrainingRow, TrainingSpec
from aloraserve.training.row_forms import RowError
from aloraserve.wire import parse_body
from aloraserve.wire.intrinsics import IntrinsicsRequest
from aloraserve_services.training.base_model import BaseTokens
from aloraserve_services.training.examples import ExampleBuilder, TrainingExample

MARK = "<requirements>"
ORIGIN = Origin("r1", UNTENANTED, 0.0)
APPENDED = {"invocation": "<|start|>safety\n", "intrinsic": {"output": {"form": "yes_no"}}}
ASKED = {
    "invocation": MARK,
    "intrinsic": {"output": {"form": "text"}, "instruction": f"{MARK} {{criteria}}\nIs {{last_message}} so?"},
}
MERGED = {
    "invocation": "check",
    "mode": "instruction",
    "intrinsic": {"output": {"form": "text"}, "instruction": "recheck!"},
}
ANSWERING = {"invocation": "<|start|>assistant\n", "intrinsic": {"output": {"form": "digit"}}}
WORDS = {"invocation": "so, is it?", "mode": "appended", "intrinsic": {"output": {"form": "text"}}}
KINDS = {"appended": APPENDED, "asked": ASKED, "merged": MERGED, "answering": ANSWERING, "words": WORDS}
TEXTS = st.lists(
    st.sampled_from(
        ["Hello world", " ", "\n", MARK, "<|start|>", "<|end|>", "safety\n", "check", "so, is it?", "é日本", "x"]
    )
    | st.text(max_size=6),
    min_size=1,
    max_size=8,
).map("".join)


class _Caught:
    """A dispatcher that keeps requests and answers none."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    @contextlib.contextmanager
    def place(self, origin: Origin) -> Iterator[None]:
        yield

    async def generate(self, request: GenerationRequest) -> Any:
        self.requests.append(request)
        raise OverloadedError("there is no engine")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseTokens:
    return BaseTokens.read(write_base(tmp_path_factory.mktemp("base")))


def spec_of(given: dict[str, Any], documents: str = "string", **more: Any) -> TrainingSpec:
    intrinsic = {**given["intrinsic"], "documents": documents}
    return TrainingSpec(
        **{"name": "judge", "base": "base", "data": {"rows": "rows"}, **given, "intrinsic": intrinsic, **more}
    )


def ids_of(base: BaseTokens, text: str) -> list[int]:
    return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])


def built(spec: TrainingSpec, base: BaseTokens, row: TrainingRow) -> TrainingExample:
    builder = ExampleBuilder(spec, base.tokenizer, end_token=base.end_token, context=base.context)
    return asyncio.run(builder.build(row))


def served(spec: TrainingSpec, base: BaseTokens, row: TrainingRow) -> GenerationRequest:
    """Return the request that ``POST /v1/intrinsics`` sends to an engine for a trained adapter's folder."""
    ids = ids_of(base, spec.invocation)
    version = AdapterVersion(
        spec.name,
        spec.kind,
        Path("/none"),
        spec.lora.rank,
        ("q_proj",),
        tuple(ids) if spec.kind == "alora" else (),
        "digest",
        intrinsic=read_intrinsic(None, spec.own_intrinsic),
        invocation_text=spec.invocation,
        invocation_mode=spec.mode,
    )
    prompts = PromptBuilder(
        base.tokenizer, KeySpace("m", "t", 8), base_model="base", max_model_len=4096, resolve=resolver_of(version)
    )
    caught = _Caught()
    runner = IntrinsicRunner(prompts, caught, PrefixWatch(), slot=lambda _: contextlib.nullcontext())  # type: ignore[arg-type]
    body = {
        "messages": list(row.messages),
        "documents": list(row.documents) or None,
        "intrinsics": [{"name": spec.name, "fields": dict(row.fields)}],
    }
    request = parse_body(IntrinsicsRequest, json.dumps(body).encode())
    [outcome] = asyncio.run(runner.run(request.conversation("base"), request.items, ORIGIN, timeout_s=30))
    assert caught.requests, outcome.error
    return caught.requests[0]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    documents=st.sampled_from(["template", "string", "json", "roles"]),
    twin=st.booleans(),
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    shown=st.lists(TEXTS, max_size=2),
)
def test_an_example_begins_with_the_prompt_that_is_served(
    base: BaseTokens, kind: str, documents: str, twin: bool, texts: list[str], shown: list[str]
) -> None:
    spec = spec_of(KINDS[kind], documents)
    spec = spec.twin() if twin else spec
    roles = ("user", "assistant")
    row = TrainingRow(
        "c",
        tuple({"role": roles[number % 2], "content": text} for number, text in enumerate(texts)),
        "7",
        documents=tuple({"doc_id": str(number), "text": text} for number, text in enumerate(shown)),
        fields={"criteria": texts[0]} if kind == "asked" else {},
    )
    example, request = built(spec, base, row), served(spec, base, row)
    assert list(example.token_ids[: example.completion_start]) == list(request.token_ids)
    assert example.activation == request.activation
    assert list(example.token_ids[example.completion_start :]) == ids_of(base, "7<|end|>")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_peft_finds_the_activation_where_it_is(base: BaseTokens, kind: str) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.variants import calculate_alora_offsets

    spec = spec_of(KINDS[kind])
    messages = ({"role": "user", "content": f"Is {MARK} so, is it? <|start|>safety\n check"},)
    row = TrainingRow("c", messages, "7", fields={"criteria": "It is."} if kind == "asked" else {})
    example = built(spec, base, row)
    ids = ids_of(base, spec.invocation)
    config = peft.LoraConfig(alora_invocation_tokens=ids, task_type="CAUSAL_LM")
    [offset] = calculate_alora_offsets({"judge": config}, "judge", torch.tensor([example.token_ids]))
    assert len(example.token_ids) - offset == example.activation


@pytest.mark.parametrize("completion", ["so, is it?", "I ask: so, is it? Yes."])
def test_a_completion_that_would_move_the_activation_is_refused(base: BaseTokens, completion: str) -> None:
    row = TrainingRow("c", ({"role": "user", "content": "Well?"},), completion)
    ids = ids_of(base, completion)
    invocation = ids_of(base, "so, is it?")
    if activation_point(ids, invocation) is None:
        pytest.skip("this tokenizer merges it")
    with pytest.raises(RowError) as caught:
        built(spec_of(WORDS), base, row)
    assert "has the invocation 'so, is it?' in its completion, which would move the activation" in caught.value.found


@pytest.mark.parametrize("completion", ["<|end|>", "Yes.<|start|>user\n"])
def test_a_special_token_in_a_completion_is_refused(base: BaseTokens, completion: str) -> None:
    row = TrainingRow("c", ({"role": "user", "content": "Well?"},), completion)
    with pytest.raises(RowError, match=r"has the special token '<\|\w+\|>' in its completion"):
        built(spec_of(WORDS), base, row)


def test_a_missing_field_is_what_the_gateway_says(base: BaseTokens) -> None:
    row = TrainingRow("c", ({"role": "user", "content": "Well?"},), "Yes.")
    with pytest.raises(RowError) as caught:
        built(spec_of(ASKED), base, row)
    assert "needs the field 'criteria'" in caught.value.found


@pytest.mark.parametrize(
    ("kind", "mode"), [("appended", InvocationMode.APPENDED), ("answering", InvocationMode.GENERATION_PROMPT)]
)
def test_a_mode_follows_from_the_invocation_as_it_does_when_it_is_served(
    base: BaseTokens, kind: str, mode: InvocationMode
) -> None:
    row = TrainingRow("c", ({"role": "user", "content": "Well?"},), "7")
    request = served(spec_of(KINDS[kind]), base, row)
    answer = activation_point(request.token_ids, ids_of(base, "<|start|>assistant\n"))
    assert (answer is not None) == (mode is InvocationMode.GENERATION_PROMPT)
