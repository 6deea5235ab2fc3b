"""What an engine can do besides generating: each with an aLoRA adapter, against PEFT, on the session's engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import ADAPTERS, Engine, Reference, assert_exact, words, write_adapter

pytestmark = pytest.mark.engine

CERTAINTY, SAFETY = ADAPTERS["certainty"][1] or (), ADAPTERS["safety"][1] or ()


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, 40), (40, 0), (0, 0), (31, 5), (62, 1), (63, 33), (128, 2)],
    ids=["at index 0", "at the very end", "alone", "across blocks", "ends a block", "across, long", "at a chunk's end"],
)
def test_the_invocation_may_stand_anywhere(engine: Engine, reference: Reference, before: int, after: int) -> None:
    """Cold, and again on its own blocks."""
    call = ([*words(before, 100 + before), *SAFETY, *words(after, 200 + after)], "safety")
    cold, warm = (engine.answers([call])[0] for _ in range(2))
    assert_exact(reference, [call, call], [cold, warm])
    assert warm.cached_tokens == (len(call[0]) - 1) // 32 * 32


def test_part_of_the_invocation_is_not_an_invocation(engine: Engine) -> None:
    """A prompt shorter than the invocation, and one that ends in the middle of it."""
    from vllm.exceptions import VLLMValidationError

    for prompt in (list(SAFETY[:2]), [*words(40, 1), *SAFETY[:2]]):
        with pytest.raises(VLLMValidationError, match="does not contain the invocation of the aLoRA adapter 'safety'"):
            engine.answers([(prompt, "safety")])


def test_a_prompt_without_the_invocation_is_the_base_models_if_so_set(
    engine: Engine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``VLLM_ALORA_ABSENT=base``: what PEFT does silently, on the base model's own blocks."""
    monkeypatch.setenv("VLLM_ALORA_ABSENT", "base")
    prompt = words(100, 380)
    engine.answers([(prompt, None)])
    (answer,) = engine.answers([(prompt, "certainty")])
    assert answer.cached_tokens == 96
    assert_exact(reference, [(prompt, None), (prompt, "certainty")], [answer, answer])


def test_prompt_log_probabilities_see_the_adapter_from_the_activation_point_on(
    engine: Engine, reference: Reference
) -> None:
    """The logits of the position before the activation point are the base model's."""
    from vllm import SamplingParams

    prompt = [*words(150, 300), *CERTAINTY, *words(20, 301)]
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    (output,) = engine.llm.generate(
        {"prompt_token_ids": prompt}, params, lora_request=engine.lora("certainty"), use_tqdm=False
    )
    found = [step[token].logprob for step, token in zip(output.prompt_logprobs[1:], prompt[1:], strict=True)]
    # Relative too: random tokens are very unlikely, and fp32 keeps about seven digits of a large number.
    assert found == pytest.approx(reference.prompt_logprobs(prompt, "certainty"), abs=1e-4, rel=2e-5)


def test_a_constrained_answer_is_the_adapters_choice(engine: Engine, reference: Reference) -> None:
    """Structured outputs: of two allowed answers the one that the adapted model finds likelier."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    prompt = [*words(90, 310), *CERTAINTY]
    chances = {}
    for word in (7, 8):
        chances[word] = reference.prompt_logprobs([*prompt, word], "certainty")[-1]
    params = SamplingParams(
        max_tokens=1, temperature=0, structured_outputs=StructuredOutputsParams(choice=["w7", "w8"])
    )
    (output,) = engine.llm.generate(
        {"prompt_token_ids": prompt}, params, lora_request=engine.lora("certainty"), use_tqdm=False
    )
    assert list(output.outputs[0].token_ids) == [max(chances, key=lambda word: chances[word])]


def test_after_a_reset_nothing_is_reused_and_nothing_changes(engine: Engine, reference: Reference) -> None:
    """``reset_prefix_cache``."""
    call = ([*words(120, 320), *CERTAINTY], "certainty")
    engine.answers([(call[0][:120], None)])
    assert engine.answers([call])[0].cached_tokens == 96
    assert engine.llm.reset_prefix_cache()
    (answer,) = engine.answers([call])
    assert answer.cached_tokens == 0
    assert_exact(reference, [call], [answer])


def test_adapters_come_and_go_between_steps(
    engine: Engine, reference: Reference, model_path: Path, tmp_path: Path
) -> None:
    """Two more adapters than the engine has room for: slots are freed and adapters loaded again, in any order."""
    from vllm.lora.request import LoRARequest

    extra: dict[str, Any] = {}
    for number, (name, invocation) in enumerate({"guard": (921, 922), "plain": None}.items()):
        write_adapter(tmp_path / name, model_path, rank=8, invocation=invocation, seed=40 + number)
        extra[name] = LoRARequest(name, 50 + number, str(tmp_path / name))
    calls = [([*words(70 + 9 * number, 330 + number), *SAFETY], "safety") for number in range(2)]
    calls += [([*words(75, 340), *CERTAINTY], "certainty"), (words(66, 341), "style"), (words(40, 342), None)]
    first = [engine.answers([call])[0] for call in calls]
    others = [
        engine.generate([*words(80, 350), 921, 922], extra["guard"]),
        engine.generate(words(80, 351), extra["plain"]),
    ]
    again = engine.answers(calls[::-1])[::-1]
    assert_exact(reference, calls + calls, [*first, *again])
    assert others == [
        engine.generate([*words(80, 350), 921, 922], extra["guard"]),
        engine.generate(words(80, 351), extra["plain"]),
    ]
    alone = Reference(model_path, tmp_path, ("guard", "plain"))
    assert others[0] == alone.answer([*words(80, 350), 921, 922], "guard").tokens
    assert others[1] == alone.answer(words(80, 351), "plain").tokens


def test_an_adapter_loaded_again_in_place_meets_no_block_of_the_old_one(
    engine: Engine, model_path: Path, tmp_path: Path
) -> None:
    """The same name, path and id with other weights and another invocation: base blocks are reused, its own are not."""
    from vllm.lora.request import LoRARequest

    old, new = (901, 902), (931, 932)
    write_adapter(tmp_path / "swap", model_path, rank=8, invocation=old, seed=60)
    reference = Reference(model_path, tmp_path, ("swap",))
    request = LoRARequest("swap", 60, str(tmp_path / "swap"))
    prompt = [*words(64, 360), *new, *old, *words(70, 361)]
    engine.llm.llm_engine.add_lora(request)
    before = engine.generate(prompt, request)
    assert before == reference.answer(prompt, "swap").tokens
    shutil.rmtree(tmp_path / "swap")
    write_adapter(tmp_path / "swap", model_path, rank=8, invocation=new, seed=61)
    reloaded = LoRARequest("swap", 60, str(tmp_path / "swap"), load_inplace=True)
    assert engine.llm.llm_engine.add_lora(reloaded)
    output = engine.output(prompt, reloaded)
    assert output.num_cached_tokens == 64
    after = list(output.outputs[0].token_ids)
    assert after == Reference(model_path, tmp_path, ("swap",)).answer(prompt, "swap").tokens
    assert after != before
    assert engine.output(prompt, request).num_cached_tokens == 128


def test_a_request_cannot_load_an_adapter_again_by_itself(engine: Engine, adapters_path: Path) -> None:
    """Its blocks would be keyed before the worker has read the files."""
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    request = LoRARequest("certainty", 77, str(adapters_path / "certainty"), load_inplace=True)
    with pytest.raises(VLLMValidationError, match="cannot be loaded in place by a generation request"):
        engine.generate([*words(10, 1), *CERTAINTY], request)


def test_an_adapter_is_what_it_was_when_it_was_loaded(
    engine: Engine, reference: Reference, adapters_path: Path, tmp_path: Path
) -> None:
    """Its configuration is gone since; one that is not loaded either is refused, and the engine goes on."""
    from vllm.exceptions import VLLMValidationError
    from vllm.lora.request import LoRARequest

    shutil.copytree(adapters_path / "certainty", tmp_path / "gone")
    request = LoRARequest("gone", 78, str(tmp_path / "gone"))
    engine.llm.llm_engine.add_lora(request)
    (tmp_path / "gone" / "adapter_config.json").unlink()
    prompt = [*words(10, 1), *CERTAINTY]
    assert engine.generate(prompt, request) == reference.answer(prompt, "certainty").tokens
    with pytest.raises(VLLMValidationError, match=r"adapter_config\.json of 'never' cannot be read"):
        engine.generate(prompt, LoRARequest("never", 79, str(tmp_path / "gone")))
    assert engine.generate(prompt, engine.lora("certainty")) == reference.answer(prompt, "certainty").tokens


def test_a_request_that_no_front_end_has_seen_is_decided_in_the_core(engine: Engine, reference: Reference) -> None:
    """A ready ``EngineCoreRequest`` over vLLM's own wire: exact with the invocation, ended alone without it."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    llm_engine = engine.llm.llm_engine
    params = SamplingParams(max_tokens=8, min_tokens=8, temperature=0, detokenize=False, extra_args=None)
    prompts = {"with": [*words(70, 390), *CERTAINTY, *words(5, 391)], "without": words(40, 392)}
    for name, prompt in prompts.items():
        arrived = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=params.clone(),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=engine.lora("certainty"),
            cache_salt=None,
            data_parallel_rank=None,
        )
        llm_engine.add_request(name, arrived, params)
    ended: dict[str, Any] = {}
    while llm_engine.has_unfinished_requests():
        ended.update({output.request_id: output.outputs[0] for output in llm_engine.step() if output.finished})
    assert list(ended["with"].token_ids) == reference.answer(prompts["with"], "certainty").tokens
    assert (ended["without"].finish_reason, list(ended["without"].token_ids)) == ("error", [])


def test_the_counters_distinguish_kinds_tokens_and_what_was_shared(engine: Engine) -> None:
    """In prometheus-client's default registry, which ``vllm serve`` publishes."""
    prompt = words(100, 370)
    calls = [(prompt, None), (prompt, "style"), ([*prompt, *CERTAINTY, 5], "certainty")]
    before = _counters()
    for call in calls:
        engine.answers([call], max_tokens=4)
    after = _counters()
    grown = {name: after[name] - before[name] for name in after}
    assert grown == {
        "vllm_alora_requests_total base": 1,
        "vllm_alora_requests_total lora": 1,
        "vllm_alora_requests_total alora": 1,
        "vllm_alora_tokens_total masked": 100,
        "vllm_alora_tokens_total adapted": 3 + 4,
        "vllm_alora_cross_adapter_cached_tokens_total ": 96,
    }


def _counters() -> dict[str, float]:
    from prometheus_client import REGISTRY

    return {
        f"{sample.name} {sample.labels.get('kind', sample.labels.get('effect', ''))}": sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name.startswith("vllm_alora_")
        and sample.name.endswith("_total")
        and sample.labels["engine"] == "0"
        and sample.labels["model_name"]
    }
