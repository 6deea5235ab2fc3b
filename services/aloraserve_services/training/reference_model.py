"""A base model with adapters as PEFT computes them: what every answer of the platform has to equal.

One prompt at a time: a CPU gains nothing from batches, and nothing is padded. The base model's keys and values before
an activation point are the same for the base model and for every aLoRA, so they are computed once per item and
continued from there; a plain LoRA computes its whole prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aloraserve.adapters import AdapterVersion
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.extras import require
from aloraserve_services.models.hardware import Dtype
from aloraserve_services.training.greedy import GreedyAnswer, GreedyDecoder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ReferencePrompt:
    """A prompt, and who answers it.

    Args:
        adapter: key of the adapter, None for the base model.
        token_ids: of the prompt.
        activation: index of the first token that the adapter changes; None for the base model, 0 for a plain LoRA.
        sampling: of the answer, which is greedy.
    """

    adapter: str | None
    token_ids: Sequence[int]
    activation: int | None
    sampling: SamplingSettings


class ReferenceModel:
    """A model with adapters. For one thread.

    Args:
        path: of the base model.
        adapters: by key.
        tokenizer: of the base model.
        dtype: of weights and computation.

    Raises:
        StartError: the extra ``train`` is not installed.
    """

    def __init__(self, path: Path, adapters: Mapping[str, AdapterVersion], tokenizer: Any, *, dtype: Dtype) -> None:
        require("train", "evaluating through PEFT", "torch", "peft", "accelerate")
        from aloraserve_services.training.base_weights import load_base

        self._adapters = dict(adapters)
        # PEFT refuses names that are part of its tensors' names, such as "lora".
        self._names = {key: f"adapter-{number}" for number, key in enumerate(adapters)}
        model = load_base(path, dtype)
        self._device = model.device
        ends = model.generation_config.eos_token_id
        self._model = self._with_adapters(model).eval()
        self._decoder = GreedyDecoder(tokenizer, [ends] if isinstance(ends, int) else ends or ())
        # Layers that keep a window or a state cannot be cut back to a shorter prefix.
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ("full_attention",))
        self._can_share = kinds == {"full_attention"}
        self._kept_ids: list[int] = []
        self._kept: Any = None

    def answer(self, prompt: ReferencePrompt) -> GreedyAnswer:
        """Return the greedy answer to a prompt.

        Raises:
            ValueError: the form of the answer cannot be compiled.
        """
        import torch

        with torch.inference_mode():
            cache, begun = self._prefix(prompt)

            def forward(ids: Sequence[int]) -> torch.Tensor:
                nonlocal begun
                begun += len(ids)
                return self._forward(prompt, ids, begun, cache)

            logits = forward(list(prompt.token_ids[begun:]))
            return self._decoder.decode(prompt.token_ids, logits, lambda token: forward([token]), prompt.sampling)

    def _prefix(self, prompt: ReferencePrompt) -> tuple[Any, int]:
        """Return keys and values of the prompt's begin, computed by the base model, and how many tokens they are of."""
        ids = list(prompt.token_ids)
        limit = len(ids) - 1 if prompt.activation is None else min(prompt.activation, len(ids) - 1)
        if limit <= 0 or not self._can_share:
            return _begin(None, 0), 0
        known = _common(self._kept_ids, ids[:limit])
        cache = _begin(self._kept, known)
        if known < limit:
            base = ReferencePrompt(None, ids, None, prompt.sampling)
            self._forward(base, ids[known:limit], limit, cache)
        self._kept, self._kept_ids = cache, ids[:limit]
        return _begin(cache, limit), limit

    def _forward(self, prompt: ReferencePrompt, ids: Sequence[int], end: int, cache: Any) -> torch.Tensor:
        """Return the logits behind tokens that end at a position of the sequence; the cache grows by them."""
        import torch

        options: dict[str, Any] = {}
        off: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self._adapters and prompt.adapter is None:
            off = self._model.disable_adapter()
        elif prompt.adapter is not None:
            self._model.set_adapter(self._names[prompt.adapter])
            if self._adapters[prompt.adapter].invocation_ids:
                options["alora_offsets"] = [end - (prompt.activation or 0)]
        with off:
            out = self._model(
                input_ids=torch.tensor([list(ids)], device=self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                **options,
            )
        logits: torch.Tensor = out.logits[0, -1]
        return logits

    def _with_adapters(self, model: Any) -> Any:
        for key, version in self._adapters.items():
            name = self._names[key]
            if name == "adapter-0":
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, version.path, adapter_name=name)
            else:
                model.load_adapter(version.path, adapter_name=name)
        return model


def _begin(cache: Any, tokens: int) -> Any:
    """Return a cache with a copy of another one's first tokens."""
    from transformers import DynamicCache

    found = DynamicCache()
    for number, layer in enumerate(cache.layers if tokens else ()):
        found.update(layer.keys[:, :, :tokens], layer.values[:, :, :tokens], number)
    return found


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    shared = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        shared += 1
    return shared
