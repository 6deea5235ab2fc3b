"""Prefixes whose keys and values are computed once: what an aLoRA never changes need not be computed in each epoch.

Before its activation point an aLoRA leaves every token to the base model (arXiv 2504.12397, section 3), so keys and
values there are constants of the training: forward and backward run over the tokens from the activation point on.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from aloraserve_services.training.collator import Prefixes
from aloraserve_services.training.examples import TrainingExample
from aloraserve_services.training.frozen_cache import let_layers_read
from aloraserve_services.training.grouped_attention import group_queries
from aloraserve_services.training.prefix_blocks import BLOCK_TOKENS, PrefixBlock, prefix_blocks
from aloraserve_services.training.prefix_passes import PrefixPasses, pass_rows
from aloraserve_services.training.prefix_store import KeysValues, PrefixStore

_FLOAT32_ROUNDING = 1e-4
_BFLOAT16_ROUNDING = 1 / 16
"""Difference of a probability that the rounding of logits alone explains: one of 16 to 32 is off by 1/16, so the
difference of two of them, in two passes, by 1/4; a probability changes by at most a quarter of that."""


class CachedPrefixes:
    """The base model's keys and values before activation points.

    Args:
        model: a ``PeftModel`` with an aLoRA.
        base: names the base model's weights and their dtype.
        folder: of the store, which may hold blocks of other base models.
        max_bytes: that the store may take.
        examples: of all splits, whose prefixes are needed.

    Attributes:
        store: where blocks are kept.
        computed: blocks that were computed.
        computed_again: of them, blocks that had been computed in this training before, for want of room.
    """

    def __init__(
        self, model: Any, base: str, folder: Path, max_bytes: int, examples: Sequence[TrainingExample]
    ) -> None:
        self._causal_lm = model.get_base_model()
        self._base = base
        self._seen: set[str] = set()
        prefixes = (array("i", example.token_ids[: example.activation]) for example in examples)
        self._prefixes = list({prefix.tobytes(): prefix for prefix in prefixes}.values())
        keys = {block.key for prefix in self._prefixes for block in prefix_blocks(base, prefix)}
        self.blocks = len(keys)
        self.computed = 0
        self.computed_again = 0
        let_layers_read(self._causal_lm)
        group_queries(self._causal_lm)
        self._passes = PrefixPasses(model)
        self.store = PrefixStore(folder, self._passes.shape, max_bytes, keys)

    def prepare(self, advance: Callable[[int, int], None], stop: Callable[[], object] = bool) -> None:
        """Compute what is not there yet, as far as there is room.

        Args:
            advance: is called with prefixes done and their number.
            stop: says whether to leave the rest.
        """
        done = 0
        for batch in self._batches():
            if stop():
                return
            self._blocks(self._to_keep(batch))
            done += len(batch)
            advance(done, len(self._prefixes))

    def _batches(self) -> Iterator[list[Sequence[int]]]:
        """Yield prefixes of similar lengths, as many as a pass may have."""
        batch: list[Sequence[int]] = []
        for prefix in sorted(self._prefixes, key=len):
            if len(batch) >= pass_rows(len(prefix)):
                yield batch
                batch = []
            batch.append(prefix)
        if batch:
            yield batch

    def _to_keep(self, prefixes: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """Return those of some prefixes that lack a block in the store and have room there."""
        found, sizes = [], dict[str, int]()
        for prefix in prefixes:
            missing = {
                block.key: self._passes.shape.block_bytes(block.end - block.start)
                for block in prefix_blocks(self._base, prefix)
                if not self.store.has(block.key)
            }
            if missing and self.store.has_room(sum((sizes | missing).values())):
                sizes |= missing
                found.append(prefix)
        return found

    def _keep(self, block: PrefixBlock, values: KeysValues) -> None:
        self.store.write(block.key, values)
        self.computed += 1
        self.computed_again += block.key in self._seen
        self._seen.add(block.key)

    @property
    def summary(self) -> str:
        """A sentence about what is kept."""
        keys = {block.key: block for prefix in self._prefixes for block in prefix_blocks(self._base, prefix)}
        kept = sum(self.store.has(key) for key in keys)
        size = sum(self._passes.shape.block_bytes(block.end - block.start) for block in keys.values())
        said = f"prefixes: {kept} of {len(keys)} blocks are kept ({size / 2**20:.0f} MiB for all)"
        said += f", {self.computed} were computed"
        if kept < len(keys):
            why = self.store.write_error or "training.cache_bytes is too small"
            said += f"; the others are computed each time: {why}"
        if self.store.rejected:
            said += f"; {self.store.rejected} damaged or foreign files were computed again"
        return said

    def load(self, prefixes: Prefixes, new_tokens: int) -> Cache:
        """Return a batch's prefixes as a cache for one pass, padded on the left. The next one is written over it.

        Args:
            prefixes: of the batch.
            new_tokens: of the pass.
        """
        return self._passes.cache(self._blocks(prefixes.token_ids), new_tokens)

    def largest_error(self, example: TrainingExample) -> float:
        """Return the greatest difference of a probability, between the base model on a whole example and on its tail.

        Raises:
            ValueError: it is more than rounding explains: this architecture cannot go on from a prefix exactly.
        """
        ids, start = example.token_ids, example.activation
        places = torch.arange(start, len(ids), device=self._causal_lm.device)
        with self._passes.as_base():
            whole = self._probabilities([ids], logits_to_keep=places)
            cache = self.load(Prefixes((ids[:start],)), len(places))
            tail = self._probabilities([ids[start:]], position_ids=places.unsqueeze(0), past_key_values=cache)
            twice = self._probabilities([ids, ids], logits_to_keep=places)
        error = float((whole - tail).abs().max())
        if not error <= _rounding(self._passes.shape.dtype, float((whole - twice).abs().max())):
            raise ValueError(f"probabilities after a cached prefix differ by {error:.1e}")
        return error

    def _probabilities(self, rows: Sequence[Sequence[int]], **inputs: Any) -> torch.Tensor:
        """Return the next token's, ``[places, vocabulary]``, in the first of some rows of one length."""
        ids = torch.tensor(rows, device=self._causal_lm.device)
        return self._causal_lm(ids, use_cache=False, **inputs).logits[0].float().softmax(-1)

    def _blocks(self, prefixes: Sequence[Sequence[int]]) -> list[list[KeysValues]]:
        """Return the blocks of each prefix, from the store as far as they are there.

        First blocks are computed first, then second ones: prefixes that begin alike share them.
        """
        named = [prefix_blocks(self._base, prefix) for prefix in prefixes]
        found: dict[str, KeysValues] = {}
        for place in range(max(map(len, named), default=0)):
            missing: dict[str, _Row] = {}
            for prefix, blocks in zip(prefixes, named, strict=True):
                if place < len(blocks) and not self._read(blocks[place], found):
                    missing[blocks[place].key] = _Row(prefix, blocks[: place + 1])
            self._compute(list(missing.values()), found)
        return [[found[block.key] for block in blocks] for blocks in named]

    def _read(self, block: PrefixBlock, found: dict[str, KeysValues]) -> bool:
        """Say whether a block is there, and add it to what is found."""
        kept = found.get(block.key) or self.store.read(block.key, block.end - block.start)
        if kept is not None:
            found[block.key] = kept
        return kept is not None

    def _compute(self, rows: Sequence[_Row], found: dict[str, KeysValues]) -> None:
        """Compute the last blocks of some rows that begin at one place, with those before them; keep what has room."""
        size = pass_rows(max(row.blocks[-1].end for row in rows)) if rows else 1
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            ids = [row.prefix[row.blocks[-1].start : row.blocks[-1].end] for row in some]
            before = [[found[block.key] for block in row.blocks[:-1]] for row in some]
            for row, made in zip(some, self._passes.compute(ids, before), strict=True):
                found[row.blocks[-1].key] = made
                self._keep(row.blocks[-1], made)


class _Row(NamedTuple):
    """A prefix up to a block that is missing."""

    prefix: Sequence[int]
    blocks: Sequence[PrefixBlock]


def cached_prefixes(
    model: Any, base: str, folder: Path, max_bytes: int, examples: Sequence[TrainingExample]
) -> tuple[CachedPrefixes | None, str]:
    """Return an aLoRA's cached prefixes, or None and why its base model cannot have them exactly.

    Args:
        model: a ``PeftModel`` with an aLoRA.
        base: names the base model's weights and their dtype.
        folder: of the store.
        max_bytes: that the store may take.
        examples: of all splits; one is computed in both ways and compared, with a prefix of several blocks if any has.
    """
    reason = why_not(model.get_base_model())
    if reason:
        return None, reason
    prefixes = CachedPrefixes(model, base, folder, max_bytes, examples)
    try:
        prefixes.largest_error(_to_try(examples))
    except ValueError as error:
        return None, str(error)
    return prefixes, ""


def _to_try(examples: Sequence[TrainingExample]) -> TrainingExample:
    """Return the example with the shortest prefix of several blocks; with the longest one if none has several."""
    several = [example for example in examples if example.activation > BLOCK_TOKENS]
    if several:
        return min(several, key=lambda example: example.activation)
    return max(examples, key=lambda example: example.activation)


def _rounding(dtype: torch.dtype, between_passes: float) -> float:
    """Return the greatest difference of a probability that rounding explains.

    Args:
        dtype: of the weights.
        between_passes: difference of a probability between two passes over whole examples.
    """
    return _FLOAT32_ROUNDING if dtype == torch.float32 else max(_BFLOAT16_ROUNDING, 2 * between_passes)


def why_not(model: Any) -> str:
    """Return why a base model's prefixes cannot be cached exactly; an empty string if they can.

    Args:
        model: transformers', for causal language modelling.
    """
    config = model.config.get_text_config(decoder=True)
    if config.is_encoder_decoder:
        return "it is an encoder and a decoder"
    types = {type(layer).__name__ for layer in _cache_layers(model) if type(layer) is not DynamicLayer}
    if types:
        kinds = sorted(set(getattr(config, "layer_types", None) or types) - {"full_attention"})
        return f"it has layers of {', '.join(kinds)}, whose state is not keys and values of all tokens"
    rope = str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))
    if rope in ("dynamic", "longrope"):
        return f"its rope is {rope}: a token's position changes with the length of what follows"
    dropouts = [name for name in vars(config) if name.endswith(("dropout", "pdrop")) and getattr(config, name)]
    if dropouts:
        return f"it has {dropouts[0]}, so that a prefix differs in each pass"
    return ""


def _cache_layers(model: Any) -> Sequence[Any]:
    if not model._supports_default_dynamic_cache():
        return [model]
    return DynamicCache(config=model.config).layers
