"""The base model's shape, as far as an adapter must fit it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Sizes of a decoder with grouped-query attention and a gated MLP.

    Args:
        layers: decoder layers.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width of a head.
        vocab_size: token ids go from 0 to ``vocab_size - 1``.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BaseShape:
        """Return the shape that a model's ``config.json`` states.

        Raises:
            SettingsError: a size is missing or no positive integer.
        """
        heads = _size(config, "num_attention_heads")
        hidden = _size(config, "hidden_size")
        return cls(
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

        Raises:
            SettingsError: the folder has no readable ``config.json``.
        """
        path = model_path / "config.json"
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError) as exc:
            raise SettingsError(f"the model's {path} cannot be read: {exc}") from exc
        if not isinstance(config, dict):
            raise SettingsError(f"the model's {path} is not a JSON object")
        return cls.from_config(config)

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return (input size, output size) of each linear that an adapter may change."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, key_value),
            "v_proj": (self.hidden_size, key_value),
            "o_proj": (query, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise SettingsError(f"the model's config.json has {key} {value!r}; a positive integer is needed")
    return value
