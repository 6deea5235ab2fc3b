"""``adapter_config.json``: what decides whether PEFT and vLLM load an adapter, and load it alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aloraserve.adapters.checks.selection import SelectionError, selected
from aloraserve.adapters.peft_files import CONFIG_FILE
from aloraserve.adapters.problems import Problem, ProblemCode, shown
from aloraserve.adapters.shape import BaseShape

MAX_INVOCATION_TOKENS = 256
MAX_ALPHA = 2.0**20
INVOCATION_KEY = "alora_invocation_tokens"

_LEGACY_TEXTS = ("invocation_string", "alora_invocation_string")
_SHADOW_RESIDUAL = ("cross_stream", "last_context_token")
_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of ``init_lora_weights`` that only say where training began. PEFT takes the first in any case of letters."""
_FALSE: tuple[Any, ...] = (None, False)
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "task_type": ("CAUSAL_LM", None),
    "use_dora": _FALSE,
    "lora_bias": _FALSE,
    "fan_in_fan_out": _FALSE,
    "use_qalora": _FALSE,
    "use_rslora": (False, True, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "use_bdlora": (None,),
    "trainable_token_indices": (None, {}),
    "megatron_config": (None,),
    "velora_config": (None,),
    "kasa_config": (None,),
    "arrow_config": (None,),
    "monteclora_config": (None,),
}
"""Options that change what an adapter means, and the values that are served; absent is always one of them."""
_MAPPINGS = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Options that only say how training began; PEFT reads them all the same."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Facts of a config, each None or empty if the config has none that is accepted.

    Args:
        rank: LoRA rank.
        alpha: LoRA alpha.
        is_rank_stabilized: whether weights are scaled by alpha over the root of the rank, instead of over the rank.
        modules: full names of the modules that it selects.
        invocation_ids: an aLoRA's invocation tokens.
        base_model: the model that it names.
    """

    rank: int | None = None
    alpha: float | None = None
    is_rank_stabilized: bool = False
    modules: frozenset[str] | None = None
    invocation_ids: tuple[int, ...] = ()
    base_model: str = ""

    @property
    def scaling(self) -> float | None:
        """The factor on the product of both matrices."""
        if self.rank is None or self.alpha is None:
            return None
        return self.alpha / (math.sqrt(self.rank) if self.is_rank_stabilized else self.rank)


def check_config(config: Mapping[str, Any], *, base: BaseShape, max_rank: int) -> tuple[AdapterConfig, list[Problem]]:
    """Return the facts of a config and its problems.

    Args:
        config: the content of ``adapter_config.json``.
        base: the base model's shape.
        max_rank: the highest rank that is accepted.
    """
    problems = [*_kind(config), *_numbers(config, max_rank), *_options(config), *_invocation(config, base)]
    modules = None
    try:
        modules = selected(config, base)
    except SelectionError as error:
        problems.append(error.problem)
    rank, alpha, name = config.get("r"), config.get("lora_alpha"), config.get("base_model_name_or_path")
    facts = AdapterConfig(
        rank=rank if _is_rank(rank, max_rank) else None,
        alpha=float(alpha) if _is_alpha(alpha) else None,  # type: ignore[arg-type]
        is_rank_stabilized=config.get("use_rslora") is True,
        modules=modules,
        invocation_ids=() if any(_invocation(config, base)) else tuple(config.get(INVOCATION_KEY) or ()),
        base_model=name[:256] if isinstance(name, str) else "",
    )
    return facts, problems


def _wrong(key: str, value: object, accepted: str, code: ProblemCode = ProblemCode.CONFIG) -> Problem:
    return Problem(code, CONFIG_FILE, f"has {key} {shown(value)}", accepted)


def _kind(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what names another kind of adapter: those before PEFT's own aLoRA would be served from the first token."""
    has_tokens = config.get(INVOCATION_KEY) is not None
    add = f"{INVOCATION_KEY}, the token ids of the invocation in the base model's tokenizer"
    for key in _LEGACY_TEXTS:
        if config.get(key) is not None and not has_tokens:
            yield _wrong(key, config[key], add, ProblemCode.LEGACY)
    if config.get("use_alora") and not has_tokens:
        yield _wrong("use_alora", config["use_alora"], add, ProblemCode.LEGACY)
    for key in _SHADOW_RESIDUAL:
        if config.get(key):
            accepted = f"a LoRA, or an aLoRA with {INVOCATION_KEY}; this is a Shadow-Residual adapter"
            yield _wrong(key, config[key], accepted, ProblemCode.LEGACY)
    kind = config.get("peft_type")
    if isinstance(kind, str) and kind.upper() == "ALORA":
        yield _wrong("peft_type", kind, f"'LORA' with {add}", ProblemCode.LEGACY)
    elif kind != "LORA":
        yield _wrong("peft_type", kind, "'LORA'")


def _numbers(config: Mapping[str, Any], max_rank: int) -> Iterator[Problem]:
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout", 0.0)
    if not _is_rank(rank, max_rank):
        yield _wrong("r", rank, f"an integer from 1 to {max_rank}")
    if not _is_alpha(alpha):
        yield _wrong("lora_alpha", alpha, f"a finite number other than 0, of {MAX_ALPHA:.0f} at most")
    if type(dropout) not in (int, float) or not 0 <= dropout <= 1:
        yield _wrong("lora_dropout", dropout, "a number from 0 to 1")


def _is_rank(value: object, max_rank: int) -> bool:
    return type(value) is int and 1 <= value <= max_rank


def _is_alpha(value: object) -> bool:
    # Compared as it is: the integer may be one that no float holds.
    return isinstance(value, int | float) and type(value) is not bool and 0 < abs(value) <= MAX_ALPHA


def _options(config: Mapping[str, Any]) -> Iterator[Problem]:
    for key, values in _MUST_BE.items():
        if key in config and not any(_same(config[key], value) for value in values):
            accepted = " or ".join("null" if value is None else repr(value) for value in values)
            yield _wrong(key, config[key], accepted)
    start = config.get("init_lora_weights")
    is_start = isinstance(start, str) and (start in _STARTS or start.lower() == _STARTS[0])
    if not (start is None or isinstance(start, bool) or is_start):
        yield _wrong("init_lora_weights", start, f"true, false, {', '.join(_STARTS)}")
    for key in _MAPPINGS:
        if not isinstance(config.get(key, {}), dict | None):
            yield _wrong(key, config[key], "an object or null")
    yield from _eva(config.get("eva_config"))


def _eva(config: object) -> Iterator[Problem]:
    """Yield what PEFT refuses in a config of EVA, though it only says where training began."""
    if not isinstance(config, dict):
        return
    for key, lowest, highest in (("rho", 1.0, 1e6), ("tau", 0.0, 1.0)):
        value = config.get(key, lowest)
        if type(value) not in (int, float) or not lowest <= value <= highest:
            yield _wrong(f"eva_config with {key}", value, f"a number from {lowest:g} to {highest:g}")


def _same(found: object, value: object) -> bool:
    return type(found) is type(value) and found == value


def _invocation(config: Mapping[str, Any], base: BaseShape) -> Iterator[Problem]:
    value = config.get(INVOCATION_KEY)
    if value is None:
        return
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_INVOCATION_TOKENS:
        yield _wrong(INVOCATION_KEY, value, f"a list of 1 to {MAX_INVOCATION_TOKENS} token ids")
        return
    for token in value:
        if type(token) is not int or not 0 <= token < base.vocab_size:
            yield _wrong(f"{INVOCATION_KEY} with", token, f"token ids from 0 to {base.vocab_size - 1}")
