"""The base model's shape, as far as an adapter must fit it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.adapters.base_weights import BaseWeights, read_base_weights
from aloraserve.errors import SettingsError

Linears = Mapping[str, tuple[int, int]]
"""Linears by the module's name, each with its input and output size."""


@dataclass(frozen=True, slots=True)
class BaseShape:
    """The linears of a base model that adapters may change, and everything else that has a name in it.

    Args:
        modules: the linears of the decoder's layers, by full module name ("model.layers.0.self_attn.q_proj").
        layers: decoder layers.
        vocab_size: token ids go from 0 to ``vocab_size - 1``.
        others: full names of the modules that no adapter may change: embeddings, blocks, routers, experts.
    """

    modules: Linears
    layers: int
    vocab_size: int
    others: frozenset[str] = frozenset()

    @classmethod
    def decoder(
        cls,
        *,
        layers: int,
        hidden_size: int,
        intermediate_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        vocab_size: int,
    ) -> BaseShape:
        """Return the usual shape: a decoder with grouped-query attention and a gated MLP, named as Llama's.

        Args:
            layers: decoder layers.
            hidden_size: width of the residual stream.
            intermediate_size: width of the MLP.
            heads: query heads.
            kv_heads: key and value heads.
            head_dim: width of a head.
            vocab_size: token ids go from 0 to ``vocab_size - 1``.
        """
        query, key_value = heads * head_dim, kv_heads * head_dim
        linears = {
            "self_attn.q_proj": (hidden_size, query),
            "self_attn.k_proj": (hidden_size, key_value),
            "self_attn.v_proj": (hidden_size, key_value),
            "self_attn.o_proj": (query, hidden_size),
            "mlp.gate_proj": (hidden_size, intermediate_size),
            "mlp.up_proj": (hidden_size, intermediate_size),
            "mlp.down_proj": (intermediate_size, hidden_size),
        }
        modules = {f"model.layers.{n}.{name}": sizes for n in range(layers) for name, sizes in linears.items()}
        return cls(modules, layers, vocab_size, _others(modules, ("model.embed_tokens", "model.norm")))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BaseShape:
        """Return the usual shape with the sizes that a model's ``config.json`` states.

        Raises:
            SettingsError: a size is missing or not a positive integer.
        """
        heads = _size(config, "num_attention_heads")
        hidden = _size(config, "hidden_size")
        return cls.decoder(
            layers=_size(config, "num_hidden_layers"),
            hidden_size=hidden,
            intermediate_size=_size(config, "intermediate_size"),
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads", heads),
            head_dim=_size(config, "head_dim", hidden // heads),
            vocab_size=_size(config, "vocab_size"),
        )

    @classmethod
    def read(cls, model_path: Path) -> BaseShape:
        """Return the shape of the model in the folder ``model_path``.

        The headers of its weights name the linears. A model without safetensors, or with quantized ones, whose sizes
        say nothing, is taken to have the usual shape, with the sizes of its ``config.json``.

        Raises:
            SettingsError: the folder has no readable ``config.json``, or its weights have no readable header.
        """
        config = _read_config(model_path)
        found = read_base_weights(model_path)
        if found is None or not found.linears:
            return cls.from_config(config)
        return cls._from_weights(found, config)

    @classmethod
    def _from_weights(cls, found: BaseWeights, config: Mapping[str, Any]) -> BaseShape:
        layers = _size(config, "num_hidden_layers", 1 + max(map(_layer, found.linears)))
        # Layers beyond are for multi-token prediction: engines skip them.
        modules = {name: sizes for name, sizes in found.linears.items() if _layer(name) < layers}
        usual = cls.from_config(config).modules if found.is_quantized else {}
        modules = {**usual, **modules}
        return cls(modules, layers, _size(config, "vocab_size"), _others(modules, found.names))

    @property
    def fingerprint(self) -> str:
        """A digest of all that adapters have to fit: equal for a model and its fine-tuned versions."""
        content = json.dumps([sorted(self.modules.items()), self.vocab_size])
        return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return (input size, output size) of each linear that an adapter may change, by its last name."""
        found: dict[str, tuple[int, int]] = {}
        for name, sizes in self.modules.items():
            found.setdefault(name.rpartition(".")[2], sizes)
        return found


def _read_config(model_path: Path) -> Mapping[str, Any]:
    path = model_path / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise SettingsError(f"the model's {path} cannot be read: {exc}") from exc
    if not isinstance(config, dict):
        raise SettingsError(f"the model's {path} is not a JSON object")
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise SettingsError(f"the model's config.json has {key} {value!r}; a positive integer is needed")
    return value


def _layer(module: str) -> int:
    return next(int(part) for part in module.split(".") if part.isdecimal())


def _others(modules: Linears, names: Iterator[str] | tuple[str, ...] | frozenset[str]) -> frozenset[str]:
    """Return every module that a pattern may match and that is not one of ``modules``."""
    # The names that engines and PEFT look for, wherever this model has them.
    found = {"lm_head", "model.lm_head", "embed_tokens", "model.embed_tokens"}
    for name in (*modules, *names):
        parts = name.split(".")
        found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    # Without weights, so no header names them.
    found.update([f"{name}.act_fn" for name in found if name.endswith(".mlp")])
    found.update([f"{name.rpartition('.')[0]}.rotary_emb" for name in found if name.endswith(".layers")])
    return frozenset(found - set(modules))
