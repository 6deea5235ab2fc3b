"""An adapter's report shows where it would act on an example, or why it would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.chat_tokenizers import alora, chat_tokenizer, plain_ids
from support.small_tokenizers import CORPUS
from tokenizers import decoders

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.problems import ProblemCode
from aloraserve.serving.prompts.activation_proof import MAX_BEFORE, ActivationProver

MARK = "<check>"
ANSWERS = "<|start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = chat_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="module")
def prover(tokenizer: Any) -> ActivationProver:
    return ActivationProver(tokenizer)


def test_an_appended_invocation_is_shown_behind_the_mark(tokenizer: Any, prover: ActivationProver) -> None:
    proof = prover.prove(alora("safety", plain_ids(tokenizer, "<|start|>safety\n")))
    assert proof.is_proven
    assert (proof.mode, proof.invocation_text) == (InvocationMode.APPENDED, "<|start|>safety\n")
    assert proof.activation == proof.prompt_tokens - len(proof.invocation_ids) == len(proof.before)
    assert tuple(token.id for token in proof.after) == proof.invocation_ids
    assert proof.marked.endswith(
        r"<|start|>assistant\nParis is the capital of France.<|end|>\n >>> [<|start|>][s][a][f][e][ty][\n]"
    )


def test_a_generation_prompt_may_occur_before(tokenizer: Any, prover: ActivationProver) -> None:
    proof = prover.prove(alora("answers", plain_ids(tokenizer, ANSWERS)))
    assert (proof.mode, proof.problems) == (InvocationMode.GENERATION_PROMPT, ())
    assert "".join(token.text for token in proof.after) == ANSWERS


def test_an_instruction_is_filled_with_the_names_of_its_fields(tokenizer: Any, prover: ActivationProver) -> None:
    asks = alora("asks", plain_ids(tokenizer, MARK), text=MARK, instruction=f"{MARK} {{criteria}}")
    proof = prover.prove(asks)
    assert (proof.mode, proof.problems) == (InvocationMode.INSTRUCTION, ())
    assert "".join(token.text for token in proof.after) == f"{MARK} criteria<|end|>\n{ANSWERS}"
    own = prover.prove(asks, [{"role": "user", "content": f"{MARK} be short"}])
    assert "".join(token.text for token in own.after) == f"{MARK} be short<|end|>\n{ANSWERS}"


def test_a_plain_lora_acts_from_the_first_token(prover: ActivationProver) -> None:
    proof = prover.prove(AdapterVersion("plain", "lora", Path("/none"), 8, ("q_proj",), (), "digest"))
    assert (proof.mode, proof.activation, proof.before, proof.problems) == (None, 0, (), ())
    assert proof.after[0].text == "<|start|>"


def test_a_plain_lora_that_needs_an_invocation_shows_it(prover: ActivationProver) -> None:
    text = "<|start|>safety\n"
    adapter = AdapterVersion("plain", "lora", Path("/none"), 8, ("q_proj",), (), "digest", invocation_text=text)
    proof = prover.prove(adapter)
    assert (proof.mode, proof.activation, proof.problems) == (InvocationMode.APPENDED, 0, ())
    assert "".join(token.text for token in proof.after).endswith(text)


def test_a_long_example_is_shown_around_the_activation_point(tokenizer: Any, prover: ActivationProver) -> None:
    example = [{"role": "user", "content": " ".join(CORPUS) * 20}]
    proof = prover.prove(alora("safety", plain_ids(tokenizer, "<|start|>safety\n")), example)
    assert len(proof.before) == MAX_BEFORE < proof.prompt_tokens
    assert proof.before[-1].text == "\n"


def reason(prover: ActivationProver, adapter: AdapterVersion, *example: str) -> str:
    proof = prover.prove(adapter, [{"role": "user", "content": text} for text in example])
    assert not proof.is_proven
    [problem] = proof.problems
    assert problem.code is ProblemCode.ACTIVATION
    return problem.text


def test_what_keeps_an_adapter_from_acting_is_a_problem(tokenizer: Any, prover: ActivationProver) -> None:
    mark = plain_ids(tokenizer, MARK)
    letters = tuple(number for letter in "<requirements>" for number in plain_ids(tokenizer, letter))
    instruction, appended = InvocationMode.INSTRUCTION, InvocationMode.APPENDED
    assert "token 9999" in reason(prover, alora("outside", (1, 9999)))
    assert "in the base model's tokenizer" in reason(prover, alora("drift", mark, text="<other>"))
    assert "another tokenizer" in reason(prover, alora("cut", letters, text="<requirements>", mode=instruction))
    lost = alora("lost", mark, text=MARK, mode=InvocationMode.GENERATION_PROMPT)
    assert "generation prompt" in reason(prover, lost)
    assert "does not contain" in reason(
        prover, alora("silent", mark, text=MARK, mode=instruction, instruction="Check this.")
    )
    twice = alora("twice", plain_ids(tokenizer, " green"), mode=appended)
    assert "invoked twice" in reason(prover, twice, "is it green?")
    assert prover.prove(twice).is_proven


def test_what_the_template_refuses_is_a_problem() -> None:
    strict = chat_tokenizer(template="{{ raise_exception('no') }}")
    strict.backend_tokenizer.decoder = decoders.ByteLevel()
    assert "refuses" in reason(ActivationProver(strict), alora("safety", plain_ids(strict, "<|start|>safety\n")))
