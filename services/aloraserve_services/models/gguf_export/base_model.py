"""The base model as a GGUF: its sizes, its tokenizer and its weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aloraserve.errors import SettingsError
from aloraserve_services.models.gguf_export.gguf_file import ExportedTensor, write_gguf
from aloraserve_services.models.gguf_export.llama_config import LlamaConfig, interleaved
from aloraserve_services.models.gguf_export.stored_type import StoredType
from aloraserve_services.models.gguf_export.vocabulary import add_vocabulary, read_tokenizer

_WEIGHT = ".weight"
_UNUSED = ("rotary_emb.inv_freq",)
"""Buffers that old checkpoints hold and nobody reads."""


def write_base(path: Path, name: str, model_path: Path, config: LlamaConfig, stored: StoredType) -> None:
    """Write the GGUF of a base model.

    Args:
        path: of the GGUF.
        name: of the model.
        model_path: its folder, with safetensors.
        config: of the model.
        stored: type of the matrices' numbers.

    Raises:
        SettingsError: weights are missing, unknown or of another size, or the tokenizer is of a kind that is not
            exported.
        OSError: the disk is full or cannot be written.
    """
    tokenizer = read_tokenizer(model_path)
    tensors = list(_tensors(model_path, config))

    def fields(writer: Any) -> None:
        _add_sizes(writer, name, config, stored)
        add_vocabulary(writer, tokenizer, model_path, config.vocab_size)

    write_gguf(path, fields, tensors, stored)


def _add_sizes(writer: Any, name: str, config: LlamaConfig, stored: StoredType) -> None:
    import gguf

    kinds = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    }
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(kinds[stored])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model_path: Path, config: LlamaConfig) -> Iterator[ExportedTensor]:
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found, wanted = _stored(model_path), dict(_wanted(config))
    surplus = [key for key in found if key not in wanted and not key.endswith(_UNUSED)]
    if config.tie_word_embeddings:
        surplus = [key for key in surplus if key != "lm_head.weight"]
    missing = [key for key in wanted if key not in found]
    if missing or surplus:
        said = f"no tensor {missing[0]!r}" if missing else f"the tensor {surplus[0]!r}, which no Llama has"
        raise SettingsError(f"the model has {said}")
    for key, shape in wanted.items():
        place, has = found[key]
        if has != shape:
            raise SettingsError(f"the model's {key!r} has shape {list(has)}; by its config.json it is {list(shape)}")
        module = key.removesuffix(_WEIGHT)
        read = functools.partial(_read, place, key, config.rotated_heads(module))
        yield ExportedTensor(names.get_name(module) + _WEIGHT, shape, read)


def _wanted(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor that the model has to have."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, kv = config.num_attention_heads * config.head_width, config.kv_heads * config.head_width
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        key = f"model.layers.{layer}"
        yield f"{key}.input_layernorm.weight", (hidden,)
        yield f"{key}.self_attn.q_proj.weight", (query, hidden)
        yield f"{key}.self_attn.k_proj.weight", (kv, hidden)
        yield f"{key}.self_attn.v_proj.weight", (kv, hidden)
        yield f"{key}.self_attn.o_proj.weight", (hidden, query)
        yield f"{key}.post_attention_layernorm.weight", (hidden,)
        yield f"{key}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{key}.mlp.up_proj.weight", (inner, hidden)
        yield f"{key}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)


def _stored(model_path: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Return the file and the shape of each tensor in a model's folder."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted(model_path.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found.update({key: (path, tuple(file.get_slice(key).get_shape())) for key in file.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise SettingsError(f"the model's {path.name} cannot be read: {error}") from error
    return found


def _read(path: Path, key: str, heads: int | None) -> NDArray[np.float32]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        numbers: NDArray[np.float32] = file.get_tensor(key).float().numpy()
    return numbers if heads is None else interleaved(numbers, heads)
