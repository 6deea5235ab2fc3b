"""Prefixes whose keys and values are computed once: what an aLoRA never changes need not be computed in each epoch.

Before its activation point an aLoRA leaves every token to the base model (arXiv 2504.12397, section 3), so keys and
values there are constants of the training: forward and backward run over the tokens from the activation point on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from aloraserve_services.training.collator import Prefixes
from aloraserve_services.training.examples import TrainingExample
from aloraserve_services.training.frozen_cache import frozen_cache, let_layers_read
from aloraserve_services.training.grouped_attention import group_queries
from aloraserve_services.training.prefix_blocks import BLOCK_TOKENS, PrefixBlock, prefix_blocks
from aloraserve_services.training.prefix_store import BlockShape, KeysValues, PrefixStore

BATCH = 16
"""Prefixes whose first blocks are computed in one pass."""
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
        self._model = model
        self._causal_lm = model.get_base_model()
        self._base = base
        self._seen: set[str] = set()
        self._prefixes = list({tuple(example.token_ids[: example.activation]): None for example in examples})
        keys = {block.key for prefix in self._prefixes for block in prefix_blocks(base, prefix)}
        self.blocks = len(keys)
        self.computed = 0
        self.computed_again = 0
        let_layers_read(self._causal_lm)
        group_queries(self._causal_lm)
        self._shape = self._block_shape()
        self.store = PrefixStore(folder, self._shape, max_bytes, keys)

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
            self._compute_first(batch)
            for prefix in batch:
                blocks = prefix_blocks(self._base, prefix)
                if not all(self.store.has(block.key) for block in blocks) and self._fits(blocks):
                    self._blocks(prefix)
            done += len(batch)
            advance(done, len(self._prefixes))

    def _batches(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield prefixes of similar lengths."""
        ordered = sorted(self._prefixes, key=len)
        for start in range(0, len(ordered), BATCH):
            yield ordered[start : start + BATCH]

    def _compute_first(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        """Compute first blocks that are missing, all in one pass: a pass per prefix would wait for the weights.

        They are padded on the right, where causal attention does not look.
        """
        firsts = {
            blocks[0].key: (prefix, blocks[0]) for prefix in prefixes if (blocks := prefix_blocks(self._base, prefix))
        }
        missing = {key: first for key, first in firsts.items() if not self.store.has(key) and self._fits([first[1]])}
        if len(missing) < 2:
            return
        width, device = max(block.end for _, block in missing.values()), self._causal_lm.device
        ids = torch.zeros((len(missing), width), dtype=torch.long)
        for row, (prefix, block) in enumerate(missing.values()):
            ids[row, : block.end] = torch.tensor(prefix[: block.end])
        cache = DynamicCache(config=self._causal_lm.config)
        positions = torch.arange(width, device=device).expand(len(missing), -1)
        # An index and not a number: of a slice torch multiplies a copy of the head's weights per prefix.
        kept = torch.zeros(1, dtype=torch.long, device=device)
        with self._as_base():
            self._causal_lm(
                ids.to(device), position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=kept
            )
        for row, (_, block) in enumerate(missing.values()):
            self._keep(block, self._cut(cache, block, row))

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
        size = sum(self._shape.block_bytes(block.end - block.start) for block in keys.values())
        said = f"prefixes: {kept} of {len(keys)} blocks are kept ({size / 2**20:.0f} MiB for all)"
        said += f", {self.computed} were computed"
        if kept < len(keys):
            why = self.store.write_error or "training.cache_bytes is too small"
            said += f"; the others are computed each time: {why}"
        if self.store.rejected:
            said += f"; {self.store.rejected} damaged or foreign files were computed again"
        return said

    def load(self, prefixes: Prefixes) -> Cache:
        """Return a batch's prefixes as a cache, padded on the left."""
        shape, width = self._shape, prefixes.longest
        size = (shape.layers, len(prefixes.token_ids), shape.heads, width)
        whole = KeysValues(
            torch.zeros((*size, shape.key_size), dtype=shape.dtype),
            torch.zeros((*size, shape.value_size), dtype=shape.dtype),
        )
        for row, prefix in enumerate(prefixes.token_ids):
            at = width - len(prefix)
            for block in self._blocks(prefix):
                tokens = block.keys.shape[2]
                for side, part in zip(whole, block, strict=True):
                    side[:, row, :, at : at + tokens] = part
                at += tokens
        return frozen_cache(*(side.to(self._causal_lm.device) for side in whole))

    def largest_error(self, example: TrainingExample) -> float:
        """Return the greatest difference of a probability, between the base model on a whole example and on its tail.

        Raises:
            ValueError: it is more than rounding explains: this architecture cannot go on from a prefix exactly.
        """
        ids, start = example.token_ids, example.activation
        places = torch.arange(start, len(ids), device=self._causal_lm.device)
        with self._as_base():
            whole = self._probabilities([ids], logits_to_keep=places)
            cache = self.load(Prefixes((ids[:start],)))
            tail = self._probabilities([ids[start:]], position_ids=places.unsqueeze(0), past_key_values=cache)
            twice = self._probabilities([ids, ids], logits_to_keep=places)
        error = float((whole - tail).abs().max())
        if not error <= _rounding(self._shape.dtype, float((whole - twice).abs().max())):
            raise ValueError(f"probabilities after a cached prefix differ by {error:.1e}")
        return error

    def _probabilities(self, rows: Sequence[Sequence[int]], **inputs: Any) -> torch.Tensor:
        """Return the next token's, ``[places, vocabulary]``, in the first of some rows of one length."""
        ids = torch.tensor(rows, device=self._causal_lm.device)
        return self._causal_lm(ids, use_cache=False, **inputs).logits[0].float().softmax(-1)

    def _fits(self, blocks: Sequence[PrefixBlock]) -> bool:
        size = sum(self._shape.block_bytes(block.end - block.start) for block in blocks)
        return self.store.has_room(size)

    def _blocks(self, prefix: Sequence[int]) -> list[KeysValues]:
        """Return a prefix's blocks, from the store as far as they are there."""
        found: list[KeysValues] = []
        blocks = prefix_blocks(self._base, prefix)
        for block in blocks:
            kept = self.store.read(block.key, block.end - block.start)
            if kept is None:
                return [*found, *self._compute(prefix, blocks[len(found) :], found)]
            found.append(kept)
        return found

    def _compute(
        self, prefix: Sequence[int], missing: Sequence[PrefixBlock], before: Sequence[KeysValues]
    ) -> list[KeysValues]:
        """Compute blocks in order, each in a pass of its own; keep them if there is room."""
        cache = DynamicCache(config=self._causal_lm.config)
        device = self._causal_lm.device
        for layer in range(self._shape.layers):
            for known in before:
                cache.update(known.keys[layer][None].to(device), known.values[layer][None].to(device), layer)
        made = []
        with self._as_base():
            for block in missing:
                self._pass(prefix, block, cache)
                made.append(self._cut(cache, block))
                self._keep(block, made[-1])
        return made

    def _pass(self, prefix: Sequence[int], block: PrefixBlock, cache: Cache) -> None:
        device = self._causal_lm.device
        self._causal_lm(
            torch.tensor([prefix[block.start : block.end]], device=device),
            position_ids=torch.arange(block.start, block.end, device=device).unsqueeze(0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _cut(self, cache: Cache, block: PrefixBlock, row: int = 0) -> KeysValues:
        """Return what a pass added to a cache for one of its rows."""
        sides = [(layer.keys, layer.values) for layer in cache.layers]
        cut = (slice(None), slice(block.start, block.end))
        return KeysValues(
            *(torch.stack([side[(row, *cut)] for side in part]).cpu() for part in zip(*sides, strict=True))
        )

    def _block_shape(self) -> BlockShape:
        cache = DynamicCache(config=self._causal_lm.config)
        with self._as_base():
            self._pass([0], PrefixBlock("", 0, 1), cache)
        keys, values = cache.layers[0].keys, cache.layers[0].values
        return BlockShape(len(cache.layers), keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)

    @contextlib.contextmanager
    def _as_base(self) -> Iterator[None]:
        """Use the model without its adapter and without gradients, as it is served."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self._model.disable_adapter():
                yield
        finally:
            self._model.train(was_training)


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
