"""Facts about a base model that examples depend on, from its files alone: no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aloraserve.errors import TrainingError

MAX_CONTEXT = 1 << 20
_PROBE = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})


@dataclass(frozen=True, slots=True)
class BaseTokens:
    """A base model's tokenizer and what it says of an answer.

    Args:
        tokenizer: with its chat template.
        end_token: that ends an answer: engines stop at it, and the chat template writes it after one.
        context: tokens that the model has room for.
    """

    tokenizer: Any
    end_token: int
    context: int

    @classmethod
    def read(cls, model_path: Path) -> BaseTokens:
        """Return the facts about the model in a folder.

        Raises:
            TrainingError: it has no tokenizer, no chat template, or no token at which an answer ends.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(model_path), local_files_only=True)
        except (OSError, ValueError) as error:
            raise TrainingError(f"the base model's tokenizer cannot be read: {type(error).__name__}") from error
        if not tokenizer.chat_template:
            raise TrainingError("the base model has no chat template; accepted: one that is served with conversations")
        config, generation = _json(model_path / "config.json"), _json(model_path / "generation_config.json")
        return cls(tokenizer, _end_token(tokenizer, generation), _context(config))


def _end_token(tokenizer: Any, generation: Mapping[str, Any]) -> int:
    """Return the token at which vLLM stops (the tokenizer's, and those of the generation config) that ends a turn."""
    given = generation.get("eos_token_id")
    stops = [*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id]
    stops = [number for number in stops if isinstance(number, int)]
    if not stops:
        raise TrainingError("the base model has no eos_token_id, so its answers never end")
    text = str(tokenizer.apply_chat_template(list(_PROBE), tokenize=False, add_generation_prompt=False))
    ending = tokenizer(text.rpartition("y")[2], add_special_tokens=False)["input_ids"]
    return next((number for number in ending if number in stops), stops[-1])


def _context(config: Mapping[str, Any]) -> int:
    inner = config.get("text_config", config)
    limit = inner.get("max_position_embeddings") if isinstance(inner, dict) else None
    return min(limit, MAX_CONTEXT) if isinstance(limit, int) and limit > 0 else MAX_CONTEXT


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
