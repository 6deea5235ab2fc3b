"""Adapters as hypothesis makes them: valid ones, and ones with a few things changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save_file

from aloraserve.adapters import BaseShape
from aloraserve.adapters.checks.selection import SelectionError, selected

OPTIONS: dict[str, list[Any]] = {
    "peft_type": ["LORA", "ALORA", "lora", None],
    "task_type": ["CAUSAL_LM", None, "SEQ_CLS", "causal_lm"],
    "r": [0, 9, "4", True, 2.0, None],
    "lora_alpha": [0.5, -2, 1e6, 0, None, 10**400, "8", True],
    "lora_dropout": [0.05, 1, 2, None, "0"],
    "bias": ["none", None, "all", "lora_only", False],
    "use_rslora": [True, False, None, "false", 1],
    "init_lora_weights": [
        *(True, False, None, "gaussian", "Gaussian", "eva", "EVA", "lora_ga", "LoRA_GA", "mica", "orthogonal"),
        *("pissa", "pissa_niter_4", "olora", "loftq", "corda", "nonsense", 5, ""),
    ],
    "alora_invocation_tokens": [None, [1, 2], [], [300], [True], "12", [[1]], [1.0], {"1": 2}, [-1], 7],
    "fan_in_fan_out": [False, None, True],
    "use_dora": [False, None, True, 0],
    "lora_bias": [False, None, True],
    "use_qalora": [False, None, True],
    "qalora_group_size": [16],
    "use_bdlora": [None, {}, {"nblocks": 2}],
    "modules_to_save": [None, [], ["lm_head"], "x"],
    "rank_pattern": [None, {}, {"q_proj": 2}, []],
    "alpha_pattern": [None, {}, {"q_proj": 2.0}],
    "layer_replication": [None, [], [[0, 1]]],
    "target_parameters": [None, [], ["mlp.experts.gate_up_proj"], "x"],
    "trainable_token_indices": [None, [], {}, [1]],
    "megatron_config": [None, {}, {"a": 1}],
    "megatron_core": ["megatron.core", None],
    "loftq_config": [None, {}, {"loftq_bits": 4}, []],
    "eva_config": [None, {}, {"rho": 2.0, "tau": 0.9}, {"rho": 0.1}, {"tau": "x"}, 3],
    "corda_config": [None, {}, {"cache_file": None}, "x"],
    "lora_ga_config": [None, {}, {"direction": "ArBr"}],
    "velora_config": [None, {}],
    "kasa_config": [None, {"beta": 1e-4}],
    "arrow_config": [None, {}],
    "monteclora_config": [None, {}],
    "runtime_config": [{"ephemeral_gpu_offload": False}, None],
    "ensure_weight_tying": [False, True, None],
    "auto_mapping": [None, {"base_model_class": "LlamaForCausalLM"}],
    "base_model_name_or_path": [None, "some/model", 3],
    "revision": [None, "main"],
    "inference_mode": [True, False],
    "peft_version": ["0.21.2", "99.0", None],
    "use_alora": [False, True],
    "invocation_string": [None, "go"],
    "cross_stream": [False, True],
    "something_of_tomorrow": [True, {"a": [1]}],
    "exclude_modules": [None, [], ["k_proj"], r".*\.layers\.0\..*", "(", ["nowhere"], 3],
    "layers_to_transform": [None, 0, [1], [0, 1], [], [9], "0", [True], True],
    "layers_pattern": [None, "", [], "layers", ["h", "layers"], "model.layers", ".*", 3],
}
"""Values of each option, good and bad."""
TARGETS: list[Any] = [
    ["q_proj", "v_proj"],
    ["down_proj"],
    ["self_attn.o_proj", "gate_proj", "up_proj"],
    ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"],
    ["1.self_attn.q_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "all-linear",
    "All-Linear",
    r".*\.(q_proj|v_proj)",
    r"model\.layers\.1\.(self_attn|mlp)\.\w+_proj",
    r"(?:.*?self_attn.*?(?:q_proj|k_proj).*?)",
    ["q_proj", "q_proj"],
]
BAD_TARGETS: list[Any] = [
    ".*",
    "q_proj",
    r".*\.mlp\..*",
    "(lm_head|.*q_proj)",
    "(",
    "",
    [],
    None,
    ["q_proj", "lm_head"],
    ["embed_tokens"],
    ["mlp"],
    ["layers"],
    ["q_proj", ""],
    ["q_proj", 3],
    {"q_proj": 1},
    ["proj"],
]


class Variant:
    """An adapter to write; not a dataclass, of which hypothesis would print every number.

    Args:
        config: of PEFT.
        tensors: by name.
    """

    def __init__(self, config: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.config = config
        self.tensors = tensors

    def __repr__(self) -> str:
        shapes = {name: (tensor.dtype.name, tensor.shape) for name, tensor in self.tensors.items()}
        return f"Variant({self.config}, {shapes})"

    def write(self, folder: Path) -> Path:
        """Write the adapter into a folder that is made, or emptied."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, folder / "adapter_model.safetensors")
        return folder


@st.composite
def variants(draw: st.DrawFn, base: BaseShape) -> Variant:
    """Draw an adapter for a model; about a third are valid."""
    rank = draw(st.sampled_from([1, 2, 4, 8]))
    targets = draw(st.sampled_from(TARGETS * 4 + BAD_TARGETS))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets}
    for key in draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=2, unique=True)):
        config[key] = draw(st.sampled_from(OPTIONS[key]))
    if draw(st.integers(0, 9)) == 0:
        config.pop(draw(st.sampled_from(sorted(config))))
    tensors = _tensors(draw, config, base, rank)
    return Variant(config, tensors)


def _tensors(draw: st.DrawFn, config: dict[str, Any], base: BaseShape, rank: int) -> dict[str, Any]:
    try:
        modules = sorted(selected(config, base))
    except SelectionError:
        modules = sorted(base.modules)[:2]
    dtypes = st.sampled_from([np.float32, np.float16])
    numbers = np.random.default_rng(draw(st.integers(0, 99)))
    tensors = {}
    for module in modules:
        inputs, outputs = base.modules[module]
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = f"base_model.model.{module}.lora_{side}.weight"
            tensors[name] = numbers.standard_normal(shape).astype(draw(dtypes))
    for change in draw(st.lists(st.sampled_from(sorted(_CHANGES)), max_size=1)):
        name = draw(st.sampled_from(sorted(tensors)))
        _CHANGES[change](tensors, name)
    return tensors or {"nothing": np.ones(1, np.float32)}


def _rename(old: str, new: str) -> Any:
    def change(tensors: dict[str, Any], name: str) -> None:
        tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def _replace(make: Any) -> Any:
    def change(tensors: dict[str, Any], name: str) -> None:
        tensors[name] = make(tensors[name])

    return change


_CHANGES: dict[str, Any] = {
    "a model. short": _rename("model.model.", "model."),
    "no prefix": _rename("base_model.model.", ""),
    "an adapter's name": _rename(".weight", ".default.weight"),
    "another module": _rename("self_attn", "mlp"),
    "another layer": _rename("layers.1", "layers.2"),
    "gone": lambda tensors, name: tensors.pop(name),
    "an embedding's": lambda tensors, name: tensors.update({"base_model.model.lm_head.lora_A.weight": tensors[name]}),
    "a whole weight": lambda tensors, name: tensors.update({"base_model.model.lm_head.weight": tensors[name]}),
    "a bias": lambda tensors, name: tensors.update({name.replace("weight", "bias"): tensors[name][0]}),
    "transposed": _replace(lambda tensor: tensor.T.copy()),
    "flat": _replace(lambda tensor: tensor.reshape(-1)),
    "empty": _replace(lambda tensor: tensor[:0]),
    "doubles": _replace(lambda tensor: tensor.astype(np.float64)),
    "integers": _replace(lambda tensor: tensor.astype(np.int8)),
    "nan": _replace(lambda tensor: np.full_like(tensor, np.nan)),
    "zero": _replace(np.zeros_like),
}
