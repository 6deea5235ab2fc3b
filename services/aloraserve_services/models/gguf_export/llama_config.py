"""The sizes of a Llama, and what of its kind llama.cpp's graph of that name computes alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aloraserve.errors import SettingsError

CLASS = "LlamaForCausalLM"


class LlamaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a ``config.json``, as far as a GGUF says it; names and units are Hugging Face's."""

    architectures: list[str]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None

    @classmethod
    def read(cls, model_path: Path) -> LlamaConfig:
        """Return the config of the model in a folder.

        Raises:
            SettingsError: it cannot be read, or the model is of a kind that is not exported.
        """
        try:
            config = json.loads((model_path / "config.json").read_bytes())
            named = config.get("architectures")
        except (OSError, ValueError, AttributeError) as error:
            raise SettingsError(f"the model's config.json cannot be read: {error}") from error
        if named != [CLASS]:
            raise SettingsError(
                f"the model's config.json has architectures {named!r}; only {CLASS} is exported as GGUF"
            )
        try:
            found = msgspec.convert(config, cls)
        except msgspec.ValidationError as error:
            raise SettingsError(f"the model's config.json cannot be used: {error}") from error
        for problem in found._problems():
            raise SettingsError(f"the model's config.json has {problem} is exported as GGUF")
        return found

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """Numbers per head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope_base(self) -> float:
        """The base of the rotary embedding's frequencies."""
        return float((self.rope_parameters or {}).get("rope_theta") or self.rope_theta or 10000.0)

    def rotated_heads(self, module: str) -> int | None:
        """Return the heads of a linear whose output is rotated by position, None for any other.

        Args:
            module: the linear's name.
        """
        return {"q_proj": self.num_attention_heads, "k_proj": self.kv_heads}.get(module.rpartition(".")[2])

    def _problems(self) -> Iterator[str]:
        """Yield what llama.cpp would compute otherwise, and what is exported instead."""
        if self.hidden_act != "silu":
            yield f"hidden_act {self.hidden_act!r}; only 'silu'"
        for name in ("attention_bias", "mlp_bias"):
            if getattr(self, name):
                yield f"{name} true; only false"
        for name in ("rope_parameters", "rope_scaling"):
            rope = getattr(self, name) or {}
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default":
                yield f"{name} of type {kind!r}; only 'default'"
        if self.quantization_config is not None:
            yield "a quantization_config; only a model that is not quantized"


def interleaved(numbers: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return a matrix with its rows in the order in which llama.cpp rotates them.

    Hugging Face rotates a head's first half against its second, llama.cpp for this architecture neighbours
    (``LlamaModel.permute`` of ``convert_hf_to_gguf.py``). Of a LoRA that is the order of B's rows.

    Args:
        numbers: heads x width rows.
        heads: of the linear's output.
    """
    rows = numbers.shape[0]
    halves = numbers.reshape(heads, 2, rows // heads // 2, *numbers.shape[1:])
    return halves.swapaxes(1, 2).reshape(numbers.shape)
