"""An adapter from rows to calls: trained, registered on a running platform by one command, and called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import peft_reference

BASE = "SmolLM2-135M-Instruct"
NAME = "poem"
INVOCATION = "<|im_start|>poem\n"
SPEC = f"""\
name: {NAME}
base: smollm2
invocation: "<|im_start|>poem\\n"
intrinsic: {{output: {{form: yes_no}}}}
data: {{train: train.jsonl, validation: validation.jsonl, duplicates: allow}}
lora: {{rank: 8}}
training: {{epochs: 3, learning_rate: 2e-3, batch_size: 4, dtype: float32}}
"""
SUBJECTS = ("a lamp", "the sea", "an old bridge", "snow", "two brothers", "a train", "bread", "my garden", "a violin")
WANTED = ("Write a poem about {}.", "Compose some verses on {} for me.")
OTHER = ("What does {} cost in a city?", "Explain to a child how one describes {}.")
CLOSE = 5e-3
"""Of log-probabilities: the platform's engines compute in batches and blocks."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def write_rows(path: Path, subjects: tuple[str, ...]) -> None:
    """Write a row per subject and question: whether the user wants a poem."""
    rows = [
        {"messages": [{"role": "user", "content": question.format(subject)}], "completion": answer}
        for subject in subjects
        for questions, answer in ((WANTED, "Y"), (OTHER, "N"))
        for question in questions
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_a_trained_adapter_is_registered_and_called_by_one_command_and_answers_as_with_peft(
    platform: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    write_rows(tmp_path / "train.jsonl", SUBJECTS[:-2])
    write_rows(tmp_path / "validation.jsonl", SUBJECTS[-2:])
    made = tmp_path / NAME
    state = ("--state-dir", str(platform.state_dir))
    trained = command("train", str(tmp_path / "spec.yaml"), "--out", str(made), *state)
    assert trained.returncode == 0, trained.stdout + trained.stderr

    words = ("adapters", "add", NAME, str(made), "--call", "Write a poem about a violin.", *state, "--json")
    added = command(*words)
    assert added.returncode == 0, added.stdout + added.stderr
    assert json.loads(added.stdout)["call"]["value"] in (True, False)

    questions = [question.format("a violin") for question in (*WANTED, *OTHER)]
    invocation = platform.tokenizer.encode(INVOCATION, add_special_tokens=False)
    prompts = []
    for question in questions:
        turns = platform.tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False)
        prompts.append([*platform.tokenizer.encode(turns, add_special_tokens=False), *invocation])
    wanted = peft_reference.answers(platform.model_path, tmp_path, [(NAME, prompt) for prompt in prompts], BASE, 2)
    for question, prompt, peft in zip(questions, prompts, wanted, strict=True):
        served = platform.complete(NAME, prompt, max_tokens=2)
        assert served.text == platform.tokenizer.decode(peft["tokens"], skip_special_tokens=True)
        assert served.logprobs[: len(peft["logprobs"])] == pytest.approx(peft["logprobs"], abs=CLOSE)
        called = command("adapters", "call", NAME, question, *state, "--json") if question == questions[0] else None
        assert called is None or json.loads(called.stdout)["text"] == served.text
    # It has learned something: both kinds of questions are answered, not one alone.
    assert len({platform.tokenizer.decode(peft["tokens"][:1]) for peft in wanted}) == 2
