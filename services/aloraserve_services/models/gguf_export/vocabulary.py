"""A tokenizer as GGUF says it: tokens, merges, and the name of the rule that splits text before them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}
_RULES: list[tuple[str, list[dict[str, Any]]]] = [
    ("gpt-2", [_BYTE_LEVEL]),
    ("smollm", [_SINGLE_DIGITS, _BYTE_LEVEL]),
]
"""llama.cpp's names of the rules (``llama_vocab::impl::load``), and how a ``tokenizer.json`` says them."""


def read_tokenizer(model_path: Path) -> dict[str, Any]:
    """Return the content of a model's ``tokenizer.json``.

    Raises:
        SettingsError: it cannot be read, or it is of a kind that is not exported.
    """
    try:
        found = json.loads((model_path / "tokenizer.json").read_bytes())
        model = found["model"]
        kind, ignores_merges, vocabulary = model["type"], model.get("ignore_merges"), model["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"the model's tokenizer.json cannot be used: {error!r}") from error
    if kind != "BPE" or not isinstance(vocabulary, dict) or ignores_merges:
        raise SettingsError(
            f"the model's tokenizer.json is of type {kind!r}; only a byte-level BPE is exported as GGUF"
        )
    if found.get("normalizer") is not None:
        raise SettingsError("the model's tokenizer.json has a normalizer; only one without is exported as GGUF")
    splitting_rule(found.get("pre_tokenizer"))
    whole: dict[str, Any] = found
    return whole


def splitting_rule(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of the rule by which text is split before merges.

    Args:
        pre_tokenizer: of a ``tokenizer.json``.

    Raises:
        SettingsError: it is a rule that is not exported.
    """
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    for name, rule in _RULES:
        if len(rule) == len(steps) and all(map(_says, steps, rule)):
            return name
    said = json.dumps(pre_tokenizer)[:200]
    raise SettingsError(
        f"the model's tokenizer.json has the pre_tokenizer {said}; GPT-2's and SmolLM's are exported as GGUF"
    )


def _says(step: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return wanted.items() <= step.items()


def add_vocabulary(writer: Any, tokenizer: dict[str, Any], model_path: Path, vocab_size: int) -> None:
    """Add a tokenizer to a GGUF.

    Args:
        writer: a ``gguf.GGUFWriter``.
        tokenizer: content of ``tokenizer.json``.
        model_path: the model's folder: its config names special tokens, its template is copied.
        vocab_size: rows of the embedding; those without a token get one that no text has.

    Raises:
        SettingsError: a token's id is beyond the embedding.
    """
    import gguf

    tokens, kinds = _tokens(tokenizer, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_rule(tokenizer["pre_tokenizer"]))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(False)
    special = gguf.SpecialVocab(model_path, load_merges=True, n_vocab=vocab_size)
    # Engines begin a prompt with the first token if this is absent.
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)


def _tokens(tokenizer: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    import gguf

    by_id = {number: (text, gguf.TokenType.NORMAL) for text, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens") or ():
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    beyond = next((number for number in by_id if not 0 <= number < vocab_size), None)
    if beyond is not None:
        raise SettingsError(
            f"the model's tokenizer.json has a token with the id {beyond}; its embedding has {vocab_size} rows"
        )
    unused = gguf.TokenType.UNUSED
    found = [by_id.get(number, (f"[PAD{number}]", unused)) for number in range(vocab_size)]
    return [text for text, _ in found], [int(kind) for _, kind in found]
