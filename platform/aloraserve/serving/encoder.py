"""A tokenizer's ids of a text, and where a text may be cut so that its parts have the same ids as the whole.

A fast tokenizer first takes its added tokens out of a text, leftmost and longest first, and then encodes each part
between them. So what stands before an added token says nothing of what stands after it, with three exceptions: tokens
that look at their neighbours (``lstrip``, ``rstrip``, ``single_word``), those that are looked for after normalization,
and pre-tokenizers that treat a text's first part in another way. A text is cut only behind special tokens that are none
of these, what follows is encoded with that token before it, and each such token has to prove itself at the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import structlog

PROBES = ("", "Hello", " world", "  two", "\n", "\n\n x", "it's 12,345", "▁a", "é日本", "\t{}", "word")
"""Texts around a token that is to prove itself: with and without spaces at their ends, as words and as parts of one."""
_OWN_CALL = "input_ids"

log = structlog.get_logger(__name__)


class Encoder:
    """Encodes texts. May be used by any number of threads.

    Args:
        tokenizer: of the base model, a ``transformers`` one. Its Rust tokenizer is asked directly where it has one that
            gives the same ids.

    Attributes:
        added: finds the added tokens of a text as the tokenizer does, None where texts cannot be cut.
        cuts: ids of the tokens behind which a text may be cut, by their text.
        size: of the vocabulary.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.size = len(tokenizer)
        self._tokenizer = tokenizer
        self._backend = _plain_backend(tokenizer)
        self.cuts = {} if self._backend is None else self._proven(self._candidates())
        self.added: re.Pattern[str] | None = None
        if self.cuts:
            self.added = re.compile(pattern_of(token.content for token in self._scanned()))
        else:
            log.info("prompts_not_cached", cause="the tokenizer has no token behind which a text can be cut")

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        """Return a text's ids.

        Args:
            text: to encode.
            special: whether the tokenizer adds what it adds to a whole text, such as a token for its beginning.
        """
        if self._backend is None:
            return list(self._tokenizer(text, add_special_tokens=special)[_OWN_CALL])
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=special)
        return list(encoding.ids)

    def ids_after(self, cut: str, text: str) -> list[int]:
        """Return the ids that a text has behind one of :attr:`cuts`; all of a prompt's that begins with it if empty."""
        return self.ids(cut + text)[1:] if cut else self.ids(text)

    def _scanned(self) -> list[Any]:
        """Return the added tokens that are looked for in a text as it is."""
        assert self._backend is not None
        return [token for token in self._backend.get_added_tokens_decoder().values() if not token.normalized]

    def _candidates(self) -> dict[str, int]:
        assert self._backend is not None
        if self._backend.encode_special_tokens:
            return {}
        return {
            token.content: self._backend.token_to_id(token.content)
            for token in self._scanned()
            if token.special and not (token.lstrip or token.rstrip or token.single_word)
        }

    def _proven(self, candidates: dict[str, int]) -> dict[str, int]:
        return {cut: number for cut, number in candidates.items() if self._is_proven(cut, number)}

    def _is_proven(self, cut: str, number: int) -> bool:
        if self.ids(cut) != [number]:
            return False
        first, *others = PROBES
        parts = [self.ids(first + cut), *(self.ids_after(cut, probe + cut) for probe in others)]
        return self.ids("".join(probe + cut for probe in PROBES)) == [token for part in parts for token in part]


def _plain_backend(tokenizer: Any) -> Any:
    """Return the tokenizer in Rust behind a Python one, without padding and truncation; None if the ids differ."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_padding()
    backend.no_truncation()
    for text in ("".join(PROBES), *PROBES):
        for special in (False, True):
            own = list(tokenizer(text, add_special_tokens=special)[_OWN_CALL])
            if backend.encode(text, add_special_tokens=special).ids != own:
                return None
    return backend


def pattern_of(words: Iterable[str]) -> str:
    """Return a regular expression that finds the longest of the words at each place.

    Common beginnings are written once: a tokenizer may have thousands of reserved tokens.
    """
    return _alternatives(sorted(set(words) - {""}))


def _alternatives(words: Sequence[str]) -> str:
    by_first: dict[str, list[str]] = {}
    for word in words:
        if word:
            by_first.setdefault(word[0], []).append(word[1:])
    branches = [re.escape(first) + _alternatives(rests) for first, rests in by_first.items()]
    if not branches:
        return ""
    # Greedy, so that of two words of which one begins with the other the longer is found.
    if "" in words:
        return f"(?:{'|'.join(branches)})?"
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
