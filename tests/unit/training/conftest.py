"""A tiny base model, a spec and its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.training_base import write_trainable_base

from aloraserve.training import TrainingSpec
from aloraserve_services.training.examples import TrainingExample

SPEC = """\
name: safety
base: {base}
invocation: "<|start|>safety\\n"
intrinsic: {{output: {{form: yes_no}}}}
description: Whether the question is safe.
licence: Apache-2.0
sources: [made up for a test]
data: {{train: train.jsonl, validation: validation.jsonl, duplicates: allow}}
lora: {{rank: 4, alpha: 8}}
training: {{epochs: 2, learning_rate: 2e-3, batch_size: 4, dtype: float32, saved_dtype: float32{more}}}
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Have torch use one thread: beside other tests, threads that wait for each other take all the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of 2 layers, with a tokenizer and a chat template."""
    return write_trainable_base(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture
def made_spec(tmp_path: Path, tiny_base: Path) -> Callable[..., TrainingSpec]:
    def make(more: str = "", rows: int = 20) -> TrainingSpec:
        (tmp_path / "train.jsonl").write_text(_rows(rows))
        (tmp_path / "validation.jsonl").write_text(_rows(6))
        path = tmp_path / "spec.yaml"
        path.write_text(SPEC.format(base=tiny_base, more=f", {more}" if more else ""))
        return TrainingSpec.read(path)

    return make


def _rows(count: int) -> str:
    words = ("cake", "bomb")
    rows = [
        {
            "conversation": str(number),
            "messages": [{"role": "user", "content": f"{'please ' * (number % 5)}bake me a {words[number % 2]}"}],
            "completion": "NY"[number % 2],
        }
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def examples() -> Sequence[TrainingExample]:
    """Examples of several lengths, some with prefixes of several blocks, one with none."""
    invocation = [1, 211, 198]
    made = []
    for length, learned in ((300, 2), (0, 3), (17, 2), (129, 4), (128, 1), (301, 2)):
        prefix = [10 + (7 * place + length) % 180 for place in range(length)]
        completion = [230 + place for place in range(learned)]
        ids = [*prefix, *invocation, *completion]
        made.append(TrainingExample(ids, length, len(ids) - learned, len(made) + 1))
    return made
