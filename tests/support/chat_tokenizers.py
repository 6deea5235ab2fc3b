"""Tokenizers with chat templates, and adapters whose invocations are theirs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.blocks import KeySpace
from aloraserve.errors import UnknownModelError
from aloraserve.serving.conversation import Resolve
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from support.small_tokenizers import small_tokenizer

SPACE = KeySpace("model", "tokenizer", 4)
ROLES = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
"""As most chat templates are."""


def chat_tokenizer(kind: str = "byte-level", template: str = ROLES, *, odd: bool = False) -> Any:
    """Return a small tokenizer of its own with a chat template."""
    tokenizer = copy.deepcopy(small_tokenizer(kind, odd=odd))
    tokenizer.chat_template = template
    return tokenizer


def plain_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of a text in which special tokens count."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def alora(
    name: str,
    ids: Sequence[int],
    *,
    text: str = "",
    mode: InvocationMode | None = None,
    instruction: str | None = None,
) -> AdapterVersion:
    """Return an aLoRA with an invocation, and perhaps an instruction."""
    intrinsic = IntrinsicSpec(instruction=instruction) if instruction is not None else None
    return AdapterVersion(
        name,
        "alora",
        Path("/none"),
        8,
        ("q_proj",),
        tuple(ids),
        f"digest of {name}",
        intrinsic=intrinsic,
        invocation_text=text,
        invocation_mode=mode,
    )


def builder_for(tokenizer: Any, *adapters: AdapterVersion, max_model_len: int = 4096) -> PromptBuilder:
    """Return a builder that serves these adapters over the model ``base``."""
    return PromptBuilder(
        tokenizer, SPACE, base_model="base", max_model_len=max_model_len, resolve=resolver_of(*adapters)
    )


def resolver_of(*adapters: AdapterVersion) -> Resolve:
    """Return what finds one of these adapters by its name."""
    served = {adapter.name: adapter for adapter in adapters}

    async def resolve(name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        if name not in served:
            raise UnknownModelError(f"model {name!r} is not served", param="model")
        return served[name]

    return resolve
