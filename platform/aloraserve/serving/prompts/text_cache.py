"""Texts of completions that were tokenized before: evaluators ask about one text several times, often at once.

A whole text is remembered with its ids and with the keys of its blocks, so what is found is exact whatever the
tokenizer. Unlike a rendered conversation (:mod:`aloraserve.serving.prompts.prompt_cache`) a plain text has no place
where every tokenizer lets it be cut, so a longer text is tokenized from its beginning.

What one tenant's texts left is not found by another's, as there.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aloraserve.blocks import BlockKey, KeySpace

MAX_BYTES = 32 * 1024 * 1024
"""Of all texts together: some two million tokens."""
MIN_CHARACTERS = 256
"""Shorter texts are tokenized again: remembering one costs as much."""
_TEXT_BYTES, _KEY_BYTES = 480, 57

_Place = tuple[str | None, str]
"""Where a text is remembered: the tenant's salt, and all of it."""


class TokenizedText(NamedTuple):
    """A text as the base model has it.

    Args:
        ids: its tokens.
        keys: of its whole blocks.
    """

    ids: Sequence[int]
    keys: Sequence[BlockKey]


class TextCache:
    """Tokenizes texts. May be used by any number of threads.

    Args:
        encode: returns a text's ids.
        keyspace: what block keys belong to.
        max_tokens: longer texts are not remembered.
        max_bytes: of what is remembered; the least recently used goes first.
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        keyspace: KeySpace,
        *,
        max_tokens: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._encode = encode
        self._keyspace = keyspace
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._texts: OrderedDict[_Place, tuple[TokenizedText, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """About how much is remembered."""
        return self._bytes

    def find(self, text: str, salt: str | None) -> TokenizedText | None:
        """Return a text that is remembered; this is quick."""
        place = (salt, text)
        with self._lock:
            found = self._texts.get(place)
            if found is None:
                return None
            self._texts.move_to_end(place)
            return found[0]

    def tokenize(self, text: str, salt: str | None) -> TokenizedText:
        """Tokenize a text, and remember it.

        Args:
            text: a whole prompt.
            salt: the tenant's, None without one.
        """
        ids = self._encode(text)
        if len(text) < MIN_CHARACTERS or len(ids) > self._max_tokens:
            return TokenizedText(ids, ())
        made = TokenizedText(array("I", ids), tuple(self._keyspace.keys(ids, cache_salt=salt)))
        self._remember((salt, text), made)
        return made

    def _remember(self, place: _Place, made: TokenizedText) -> None:
        size = _TEXT_BYTES + sys.getsizeof(place[1]) + 4 * len(made.ids) + _KEY_BYTES * len(made.keys)
        with self._lock:
            # Another thread may have made the same meanwhile.
            self._bytes += size - self._texts.pop(place, (made, 0))[1]
            self._texts[place] = (made, size)
            while self._bytes > self._max_bytes:
                self._bytes -= self._texts.popitem(last=False)[1][1]
