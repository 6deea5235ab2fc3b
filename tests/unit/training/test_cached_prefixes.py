"""Training on cached prefixes: PEFT's own gradients, computed over the tail alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from aloraserve_services.training import prefix_passes
from aloraserve_services.training.cached_prefixes import CachedPrefixes, cached_prefixes
from aloraserve_services.training.collator import IGNORED, Collator, Prefixes
from aloraserve_services.training.examples import TrainingExample
from aloraserve_services.training.frozen_cache import let_layers_read
from aloraserve_services.training.prefix_blocks import prefix_blocks
from aloraserve_services.training.prefix_passes import PrefixPasses

Gradients = dict[str, torch.Tensor]


def alora(base: Path, invocation: Sequence[int], **changes: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    made = get_peft_model(model, LoraConfig(alora_invocation_tokens=list(invocation), **(config | changes)))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.02)
    return made.train()


def invocation_of(examples: Sequence[TrainingExample]) -> list[int]:
    first = examples[0]
    return first.token_ids[first.activation : first.completion_start]


def peft_gradients(model: Any, examples: Sequence[TrainingExample]) -> tuple[float, Gradients]:
    """PEFT's loop: whole examples, padded on the right, offsets found by PEFT, the loss by transformers."""
    width = max(len(example.token_ids) for example in examples)
    pads = [width - len(example.token_ids) for example in examples]
    ids = torch.tensor([[*row.token_ids, *[2] * pad] for row, pad in zip(examples, pads, strict=True)])
    mask = torch.tensor([[1] * len(row.token_ids) + [0] * pad for row, pad in zip(examples, pads, strict=True)])
    labels = torch.where(mask.bool(), ids, IGNORED)
    for row, example in enumerate(examples):
        labels[row, : example.completion_start] = IGNORED
    return backward(model, model(input_ids=ids, attention_mask=mask, labels=labels).loss)


def tail_gradients(
    model: Any, prefixes: CachedPrefixes, examples: Sequence[TrainingExample]
) -> tuple[float, Gradients]:
    batch = Collator(2, is_alora=True, cut_prefixes=True)(examples)
    labels, before = batch.pop("labels"), batch.pop("prefixes")
    cache = prefixes.load(before, batch["input_ids"].shape[1])
    logits = model(**batch, past_key_values=cache, use_cache=False).logits[:, -labels.shape[1] :]
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="sum"
    )
    return backward(model, loss / (labels != IGNORED).sum())


def backward(model: Any, loss: torch.Tensor) -> tuple[float, Gradients]:
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def largest_difference(ours: Gradients, theirs: Gradients) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"rank_pattern": {"k_proj": 2}}, {"target_modules": ["q_proj", "o_proj", "down_proj"]}]
)
def test_gradients_are_those_of_peft_s_own_loop(
    tiny_base: Path,
    tmp_path: Path,
    examples: Sequence[TrainingExample],
    changes: dict[str, Any],
    checkpointing: bool,
) -> None:
    model = alora(tiny_base, invocation_of(examples), **changes)
    expected_loss, expected = peft_gradients(model, examples)
    prefixes = CachedPrefixes(model, "base", tmp_path, 2**30, examples)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    loss, found = tail_gradients(model, prefixes, examples)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3
    assert all(float(value.abs().max()) > 0 for name, value in found.items() if "lora_B" in name)
    assert largest_difference(found, expected) < 1e-5


def test_gradients_are_those_of_peft_s_own_loop_with_a_real_model(
    model_path: Path, tmp_path: Path, examples: Sequence[TrainingExample]
) -> None:
    some = [examples[2], examples[3]]
    model = alora(model_path, invocation_of(some), lora_alpha=4)
    expected_loss, expected = peft_gradients(model, some)
    loss, found = tail_gradients(model, CachedPrefixes(model, "base", tmp_path, 2**30, some), some)
    assert loss == pytest.approx(expected_loss, rel=2e-5)
    assert largest_difference(found, expected) < 1e-5


def test_a_prefix_is_computed_once_and_a_shared_beginning_too(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample]
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    longer = [*examples[0].token_ids[:256], *examples[5].token_ids[256:]]
    twins = [examples[0], TrainingExample(longer, 301, len(longer) - 2, 9)]
    first = CachedPrefixes(model, "base", tmp_path, 2**30, twins)
    first.prepare(lambda done, total: None)
    assert first.computed == 4
    second = CachedPrefixes(model, "base", tmp_path, 2**30, twins)
    second.prepare(lambda done, total: None)
    second.load(Prefixes(tuple(twin.token_ids[: twin.activation] for twin in twins)), 1)
    assert second.computed == 0
    assert CachedPrefixes(model, "another base", tmp_path, 2**30, twins).blocks == 4
    assert not any(second.store.has(block.key) for block in prefix_blocks("another base", longer[:301]))


def test_blocks_are_those_of_one_pass_over_a_whole_prefix_however_many_stand_side_by_side(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    longest = [examples[index].token_ids[: examples[index].activation] for index in (0, 5)]
    for rows in (16, 1):
        monkeypatch.setattr(prefix_passes, "PASS_ROWS", rows)
        prefixes = CachedPrefixes(model, "base", tmp_path / str(rows), 2**30, examples)
        prefixes.prepare(lambda done, total: None)
        for prefix in longest:
            with torch.no_grad(), model.disable_adapter():
                expected = model(torch.tensor([prefix]), use_cache=True).past_key_values
            found = prefixes.load(Prefixes((prefix,)), 1)
            for ours, theirs in zip(found.layers, expected.layers, strict=True):
                torch.testing.assert_close(ours.keys[:, :, :-1], theirs.keys, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(ours.values[:, :, :-1], theirs.values, rtol=1e-5, atol=1e-5)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows of each pass, and tokens of its longest one with those before it."""
    made: list[tuple[int, int]] = []
    compute = PrefixPasses.compute

    def record(self: PrefixPasses, rows: Any, before: Any) -> Any:
        made.append((len(rows), max(map(len, rows)) + sum(block.keys.shape[2] for block in before[0])))
        return compute(self, rows, before)

    monkeypatch.setattr(PrefixPasses, "compute", record)
    return made


def test_blocks_of_several_prefixes_are_computed_in_one_pass(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], passes: list[tuple[int, int]]
) -> None:
    prefixes = CachedPrefixes(alora(tiny_base, invocation_of(examples)), "base", tmp_path, 2**30, examples)
    prefixes.prepare(lambda done, total: None)
    assert passes == [(5, 128), (3, 256), (2, 301)]
    assert prefixes.computed == prefixes.blocks == 10


def test_a_pass_is_bounded_in_preparation_and_in_a_step(
    tiny_base: Path,
    tmp_path: Path,
    examples: Sequence[TrainingExample],
    passes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefix_passes, "PASS_TOKENS", 520)
    model = alora(tiny_base, invocation_of(examples))
    CachedPrefixes(model, "base", tmp_path / "prepared", 2**30, examples).prepare(lambda done, total: None)
    assert sum(rows for rows, _ in passes) == 10
    CachedPrefixes(model, "base", tmp_path / "none", 0, examples).load(
        Prefixes(tuple(example.token_ids[: example.activation] for example in examples)), 5
    )
    assert sum(rows for rows, _ in passes) == 20
    assert max(rows for rows, _ in passes) > 1
    assert all(rows * tokens <= 520 for rows, tokens in passes)


def test_of_a_prefix_that_is_partly_there_the_rest_is_computed(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample]
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    whole = examples[0]
    beginning = TrainingExample(whole.token_ids[:260], 256, 258, 1)
    CachedPrefixes(model, "base", tmp_path, 2**30, [beginning]).prepare(lambda done, total: None)
    grown = CachedPrefixes(model, "base", tmp_path, 2**30, [whole])
    grown.prepare(lambda done, total: None)
    assert grown.computed == 1
    middle = prefix_blocks("base", whole.token_ids[:300])[1].key
    (tmp_path / middle[:2] / f"{middle}.safetensors").unlink()
    mended = CachedPrefixes(model, "base", tmp_path, 2**30, [whole])
    loss, found = tail_gradients(model, mended, [whole])
    assert mended.computed == 1
    expected_loss, expected = peft_gradients(model, [whole])
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert largest_difference(found, expected) < 1e-5


def test_a_request_to_stop_leaves_the_rest(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_passes, "PASS_ROWS", 2)
    prefixes = CachedPrefixes(alora(tiny_base, invocation_of(examples)), "base", tmp_path, 2**30, examples)
    done: list[int] = []
    prefixes.prepare(lambda number, total: done.append(number), lambda: bool(done))
    assert done == [2]
    assert 0 < prefixes.computed < prefixes.blocks


def test_a_backward_pass_whose_prefixes_were_written_over_fails(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample]
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    prefixes = CachedPrefixes(model, "base", tmp_path, 2**30, examples)
    batch = Collator(2, is_alora=True, cut_prefixes=True)(examples[:2])
    del batch["labels"]
    before = batch.pop("prefixes")
    cache = prefixes.load(before, batch["input_ids"].shape[1])
    total = model(**batch, past_key_values=cache, use_cache=False).logits.sum()
    prefixes.load(before, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_what_does_not_fit_is_computed_again_to_the_same_values_but_for_rounding(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample]
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    roomy = CachedPrefixes(model, "base", tmp_path / "roomy", 2**30, examples)
    one_block = 2 * 2 * 2 * 128 * 16 * 4 + 1024
    tight = CachedPrefixes(model, "base", tmp_path / "tight", one_block, examples)
    for prefixes in (roomy, tight):
        prefixes.prepare(lambda done, total: None)
    for _ in range(2):
        (loss, ours), (expected, theirs) = (tail_gradients(model, each, examples) for each in (tight, roomy))
        # Roomy blocks were computed beside others: last bits may differ.
        assert loss == pytest.approx(expected, abs=1e-5)
        assert largest_difference(ours, theirs) < 1e-5
    assert sum(file.stat().st_size for file in (tmp_path / "tight").rglob("*") if file.is_file()) <= one_block
    assert tight.computed_again > 0
    assert "cache_bytes is too small" in tight.summary


@pytest.mark.parametrize("damage", ["flip", "cut", "foreign"])
def test_a_damaged_or_foreign_file_is_computed_again(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], damage: str
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    CachedPrefixes(model, "base", tmp_path, 2**30, examples).prepare(lambda done, total: None)
    [key] = [block.key for block in prefix_blocks("base", examples[2].token_ids[: examples[2].activation])]
    other = prefix_blocks("base", examples[3].token_ids[:129])[0].key
    file, another = (tmp_path / name[:2] / f"{name}.safetensors" for name in (key, other))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes({"flip": content, "cut": content[:-8], "foreign": another.read_bytes()}[damage])
    prefixes = CachedPrefixes(model, "base", tmp_path, 2**30, examples)
    loss, _ = tail_gradients(model, prefixes, examples)
    assert loss == pytest.approx(peft_gradients(model, examples)[0], abs=1e-5)
    assert (prefixes.computed, prefixes.store.rejected) == (1, 1)
    assert "damaged or foreign" in prefixes.summary


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, "rope is dynamic"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
    ],
)
def test_a_model_that_cannot_go_on_from_a_prefix_exactly_is_refused_by_name(
    tmp_path: Path, examples: Sequence[TrainingExample], config: dict[str, Any], reason: str
) -> None:
    from support.training_base import write_trainable_base

    model = alora(write_trainable_base(tmp_path / "odd", **config), invocation_of(examples))
    prefixes, why_not = cached_prefixes(model, "base", tmp_path / "store", 2**30, examples)
    assert prefixes is None
    assert reason in why_not
    assert not (tmp_path / "store").exists()


def test_sliding_windows_are_refused_by_name(tmp_path: Path, examples: Sequence[TrainingExample]) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=512, num_hidden_layers=1, sliding_window=32, **sizes)
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    model = alora(tmp_path / "mistral", invocation_of(examples))
    _, why_not = cached_prefixes(model, "base", tmp_path / "store", 2**30, examples)
    assert "Sliding" in why_not


def test_a_model_whose_layers_lose_the_prefix_is_found_out(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    monkeypatch.setattr(CachedPrefixes, "_blocks", lambda self, prefixes: [[] for _ in prefixes])
    _, why_not = cached_prefixes(model, "base", tmp_path, 2**30, examples[2:])
    assert "probabilities after a cached prefix differ" in why_not


def test_a_model_that_loses_a_later_block_is_found_out(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = alora(tiny_base, invocation_of(examples))
    blocks = CachedPrefixes._blocks
    monkeypatch.setattr(CachedPrefixes, "_blocks", lambda self, prefixes: [some[:1] for some in blocks(self, prefixes)])
    _, why_not = cached_prefixes(model, "base", tmp_path, 2**30, examples)
    assert "probabilities after a cached prefix differ" in why_not


def test_in_bfloat16_rounding_passes_and_a_lost_prefix_does_not(
    tiny_base: Path, tmp_path: Path, examples: Sequence[TrainingExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = alora(tiny_base, invocation_of(examples)).to(torch.bfloat16)
    with torch.no_grad():
        # Random weights are sure of nothing.
        model.get_base_model().lm_head.weight.mul_(8)
    prefixes, why_not = cached_prefixes(model, "base", tmp_path, 2**30, examples)
    assert prefixes is not None, why_not
    monkeypatch.setattr(CachedPrefixes, "_blocks", lambda self, prefixes: [[] for _ in prefixes])
    _, why_not = cached_prefixes(model, "base", tmp_path, 2**30, examples)
    assert "probabilities after a cached prefix differ" in why_not


def test_gradient_checkpointing_alone_would_lose_the_prefix(tiny_base: Path) -> None:
    """What :func:`let_layers_read` is for: transformers takes the cache from layers that are checkpointed."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    assert layers
    assert not any(layer._can_checkpoint_with_cache for layer in layers)
    let_layers_read(model)
    assert all(layer._can_checkpoint_with_cache for layer in layers)
