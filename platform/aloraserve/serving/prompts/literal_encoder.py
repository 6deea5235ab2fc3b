"""Encodes rendered conversations in which client text holds special tokens, as the text that they are there.

The tokenizer's twin is the same in everything, but its special tokens have names that nobody can write. The template's
own tokens get these names in the text, the client's characters are put back, and the twin encodes all of it at once:
so a text without special tokens has exactly the ids that the tokenizer gives.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from aloraserve.serving.prompts.escaping import Escaping


class LiteralEncoder:
    """Encodes escaped texts. May be used by any number of threads.

    Making one copies the vocabulary: some tenths of a second.

    Args:
        backend: a tokenizer in Rust.
        escaping: of the texts.

    Raises:
        ValueError: the tokenizer has no such twin.
    """

    def __init__(self, backend: Any, escaping: Escaping) -> None:
        self._backend = backend
        self._escaping = escaping
        secret = secrets.token_hex(16)
        names = {token: f"<{secret}:{number}>" for number, token in enumerate(sorted(escaping.tokens))}
        self._split = f"<{secret}>"
        self._twin = _twin(backend, names, self._split)
        self._own = {backend.token_to_id(token): (token, name) for token, name in names.items()}
        added = [token.content for token in backend.get_added_tokens_decoder().values()]
        ids = {self._twin.token_to_id(names.get(token, token)): backend.token_to_id(token) for token in added}
        self._ids = {number: own for number, own in ids.items() if number != own}
        self._split_id = self._twin.token_to_id(self._split)

    def ids(self, text: str) -> list[int]:
        """Return the ids of an escaped text, of which only the template's tokens are special."""
        [encoding] = self._twin.encode_batch_fast([self._named(text)], add_special_tokens=False)
        return [self._ids.get(number, number) for number in encoding.ids if number != self._split_id]

    def _named(self, text: str) -> str:
        """Return a text with the template's tokens under the twin's names, and the client's as they were written."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        parts: list[str] = []
        done = 0
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            token, name = self._own.get(number, ("", ""))
            # A model may give the id of a token for what it does not know.
            if token and text[start:end].strip() == token:
                parts += (self._escaping.restore(text[done:start], self._split), text[start:end].replace(token, name))
                done = end
        return "".join(parts) + self._escaping.restore(text[done:], self._split)


def _twin(backend: Any, names: Mapping[str, str], split: str) -> Any:
    """Return a tokenizer with other names for some of its tokens, and one token more.

    Args:
        backend: the tokenizer.
        names: the new names by the old ones.
        split: text of the additional token.
    """
    config = json.loads(backend.to_str())
    _rename(config["model"], names)
    added = config["added_tokens"]
    for token in added:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "normalized": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added.append({"id": 1 + max((token["id"] for token in added), default=0), "content": split} | plain)
    config |= {"post_processor": None, "decoder": None, "truncation": None, "padding": None}
    try:
        return type(backend).from_str(json.dumps(config))
    except Exception as error:
        # The library raises nothing more special.
        raise ValueError(f"the tokenizer has no twin: {error}") from error


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in a vocabulary, so that the model does not make them of text; parts of its words stay."""
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges", ()))
    words = {word for first, second in merges for word in (first, second, first + second)}
    new = {token: name for token, name in names.items() if token not in words}
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {new.get(token, token): number for token, number in vocabulary.items()}
    else:
        model["vocab"] = [[new.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
