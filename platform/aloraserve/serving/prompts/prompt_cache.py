"""Rendered prompts that were tokenized before: a conversation's next turn costs what is new in it.

A text is cut into pieces behind special tokens, where its ids are those of its pieces
(:mod:`aloraserve.serving.prompts.encoder`). Each piece is remembered with its ids, and with the keys of the blocks that
end in it, under its text and the piece before it: texts are compared, never digests of them.

What one tenant's prompts left is not found by another's. Else the time to the first token would show what others have
asked: some 100 us for a message. Callers without a tenant share.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.serving.prompts.encoder import Encoder

MAX_BYTES = 64 * 1024 * 1024
"""Of all pieces together: some five million tokens."""
MIN_PIECE_CHARACTERS = 64
"""Pieces are at least that long, but for a text's last: each costs some 500 bytes, and a step of the search."""
_PIECE_BYTES, _KEY_BYTES = 480, 57

_Before = int | str | None
"""What a piece follows: another one, by its number, or nothing, by the tenant's salt."""


class _Piece(NamedTuple):
    """A part of a prompt.

    Args:
        number: of it alone.
        ids: its tokens.
        keys: of the blocks that end in it.
        end: how many tokens the prompt has up to its end.
        size: in bytes, about.
    """

    number: int
    ids: array[int]
    keys: tuple[BlockKey, ...]
    end: int
    size: int


_Place = tuple[_Before, str]
"""Where a piece is remembered: what it follows, and its text."""


@dataclass(slots=True)
class Lookup:
    """What is known of a text.

    Args:
        text: looked up.
        salt: the tenant's.
        cuts: where it may be cut, with the id of the token that ends there.
        ends: where its pieces end.
        known: its first pieces, by their places.
    """

    text: str
    salt: str | None
    cuts: list[tuple[int, int]]
    ends: list[int]
    known: dict[_Place, _Piece] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """Where what is not known begins."""
        return self.ends[len(self.known) - 1] if self.known else 0

    @property
    def new_ends(self) -> list[int]:
        """Where the pieces that are not known end."""
        return self.ends[len(self.known) :]

    @property
    def last(self) -> _Piece | None:
        """The last piece that is known."""
        return next(reversed(self.known.values())) if self.known else None

    @property
    def new_characters(self) -> int:
        """How much has to be tokenized."""
        return len(self.text) - self.start


class PromptCache:
    """Tokenizes rendered prompts. May be used by any number of threads.

    Args:
        encoder: of the base model.
        keyspace: what block keys belong to.
        max_tokens: longer prompts are not remembered.
        max_bytes: of what is remembered; the least recently used goes first.
    """

    def __init__(self, encoder: Encoder, keyspace: KeySpace, *, max_tokens: int, max_bytes: int = MAX_BYTES) -> None:
        self._encoder = encoder
        self._keyspace = keyspace
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._texts_of_cuts = {number: cut for cut, number in encoder.cuts.items()}
        self._pieces: OrderedDict[_Place, _Piece] = OrderedDict()
        self._bytes = 0
        self._last_number = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """About how much is remembered."""
        return self._bytes

    def look_up(self, text: str, salt: str | None) -> Lookup:
        """Return what is known of a text; this is quick.

        Args:
            text: a rendered prompt.
            salt: the tenant's, None without one.
        """
        cuts = self._cuts(text)
        found = Lookup(text, salt, cuts, _ends(cuts))
        with self._lock:
            self._follow(found)
            self._touch(found.known)
        return found

    def complete(self, found: Lookup) -> tuple[list[int], list[BlockKey]]:
        """Return a text's ids, and the keys of its first blocks as the base model has them; remember both.

        Args:
            found: what :meth:`look_up` returned.
        """
        ids = list(chain.from_iterable(piece.ids for piece in found.known.values()))
        keys = list(chain.from_iterable(piece.keys for piece in found.known.values()))
        cut = self._texts_of_cuts[ids[-1]] if ids else ""
        new = self._encoder.ids_after(cut, found.text[found.start :])
        ends = [len(ids) + end for end in self._id_ends(found, new)]
        ids += new
        if ends and len(ids) <= self._max_tokens:
            parent = keys[-1] if keys else self._keyspace.root(found.salt)
            keys += self._keyspace.extend(parent, ids[len(keys) * self._keyspace.block_tokens : ends[-1]])
            self._remember(found, ids, keys, ends)
        return ids, keys

    def _cuts(self, text: str) -> list[tuple[int, int]]:
        """Return where a text may be cut: the end and the id of each token that allows it."""
        if self._encoder.added is None:
            return []
        found = ((match.end(), self._encoder.cuts.get(match[0])) for match in self._encoder.added.finditer(text))
        return [(end, number) for end, number in found if number is not None]

    def _follow(self, found: Lookup) -> None:
        before: _Before = found.salt
        start = 0
        for end in found.ends:
            place = (before, found.text[start:end])
            piece = self._pieces.get(place)
            if piece is None:
                return
            found.known[place] = piece
            before, start = piece.number, end

    def _touch(self, places: Iterable[_Place]) -> None:
        """Note the use of a prompt's pieces, its first ones as the last: without them the others are not found."""
        for place in reversed(list(places)):
            if place in self._pieces:
                self._pieces.move_to_end(place)

    def _id_ends(self, found: Lookup, new: Sequence[int]) -> list[int]:
        """Return how many of the new ids there are up to the end of each new piece; nothing if that is not certain.

        Ids of tokens behind which texts are cut stand for just these. Where a model also gives one of them for what it
        does not know there are more of them than in the text.
        """
        ends = set(found.new_ends)
        if not ends:
            return []
        start = found.start
        cuts = [cut for cut in found.cuts if cut[0] > start]
        if any(new.count(number) != times for number, times in Counter(number for _, number in cuts).items()):
            return []
        id_ends: list[int] = []
        place = 0
        for end, number in cuts:
            place = new.index(number, place) + 1
            if end in ends:
                id_ends.append(place)
        return id_ends

    def _remember(self, found: Lookup, ids: Sequence[int], keys: Sequence[BlockKey], id_ends: Sequence[int]) -> None:
        """Remember a text's new pieces, of which the last id of each is at ``id_ends``."""
        places = list(found.known)
        last, start = found.last, found.start
        with self._lock:
            for end, id_end in zip(found.new_ends, id_ends, strict=True):
                places.append((last.number if last else found.salt, found.text[start:end]))
                last, start = self._add(places[-1], ids, keys, last.end if last else 0, id_end), end
            self._touch(places)
            while self._bytes > self._max_bytes:
                self._bytes -= self._pieces.popitem(last=False)[1].size

    def _add(self, place: _Place, ids: Sequence[int], keys: Sequence[BlockKey], start: int, end: int) -> _Piece:
        """Return the piece of a place; another thread may have added it meanwhile."""
        known = self._pieces.get(place)
        if known is None:
            width = self._keyspace.block_tokens
            own = tuple(keys[start // width : end // width])
            size = _PIECE_BYTES + sys.getsizeof(place[1]) + 4 * (end - start) + _KEY_BYTES * len(own)
            self._last_number += 1
            known = self._pieces[place] = _Piece(self._last_number, array("I", ids[start:end]), own, end, size)
            self._bytes += size
        return known


def _ends(cuts: Iterable[tuple[int, int]]) -> list[int]:
    """Return where a text's pieces end; that depends on nothing behind each of them."""
    ends: list[int] = []
    start = 0
    for end, _ in cuts:
        if end - start >= MIN_PIECE_CHARACTERS:
            start = end
            ends.append(end)
    return ends
