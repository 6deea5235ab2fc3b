"""Text of clients, made harmless for a chat template: no special token in it counts as one.

A template puts its own special tokens and the client's text into one string, and a tokenizer cannot see who wrote what.
So before a conversation is rendered one character of each special token in the client's text is replaced by a
mark: what the template does with the text (trim, count, compare, cut) comes out as before, and afterwards each
special token that is found is the template's. :mod:`aloraserve.serving.prompts.literal_encoder` puts the
characters back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from aloraserve.serving.prompts.token_pattern import pattern_of_tokens

MARKS = [chr(code) for code in range(0x1D800, 0x1DA00)]
"""Signs of Sutton's SignWriting, which hardly any text has. They are symbols, so no template takes them for letters or
spaces, and printable, so they stay as they are where a template prints a list or an object."""
_MORE_MARKS = range(0x100000, 0x10FFFE)
"""Private ones, for tokens that begin and end with more characters than there are such signs."""
ESCAPE, SPLIT, *_MARKS = MARKS
"""What stands before a mark that a client wrote, and where a text is to be tokenized as two."""
_NOTHING = "(?!)"


class Escaping:
    """Replaces what looks like a special token in client text, and puts it back.

    A text without one stays as it is, which costs a search for a character or two.

    Args:
        tokens: texts of the tokens that only a template may write.
        template: the chat template's source: a client's text may complete what it writes. Empty if it is not known.
    """

    def __init__(self, tokens: Iterable[str], template: str = "") -> None:
        self.tokens = frozenset(token for token in tokens if token.strip())
        self._endings = tuple({ending for _, ending in _halves(self.tokens, template, is_first_ours=True)})
        self._beginnings = tuple({beginning for beginning, _ in _halves(self.tokens, template, is_first_ours=False)})
        self._found = pattern_of_tokens(self.tokens) or re.compile(_NOTHING)
        signs = sorted({token.strip()[place] for token in self.tokens for place in (0, -1)})
        self._signs = tuple(signs)
        self._marks = dict(zip(signs, chain(_MARKS, map(chr, _MORE_MARKS)), strict=False))
        self._written = {mark: sign for sign, mark in self._marks.items()} | {SPLIT: ""}
        self._all_marks = (ESCAPE, *self._written)
        marks = "".join(self._all_marks)
        self._any_written = re.compile(f"[{marks}]")
        self._any_mark = re.compile(f"{ESCAPE}([{marks}])|[{marks}]")

    def escape_messages(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return messages with their texts escaped; quicker than one by one where all are harmless."""
        try:
            text = "".join(chain.from_iterable(message.values() for message in messages))
        except TypeError:
            # A value is not a text.
            return [self.escape(message) for message in messages]
        is_plain = not any(sign in text for sign in self._signs) and not self.is_escaped(text)
        return messages if is_plain else [self.escape(message) for message in messages]

    def escape(self, value: Any) -> Any:
        """Return a value for a template with all its texts escaped, also those in lists and objects."""
        if isinstance(value, str):
            return value if self._is_harmless(value) else self._escape(value)
        if isinstance(value, dict):
            return {self.escape(name): self.escape(entry) for name, entry in value.items()}
        return [self.escape(entry) for entry in value] if isinstance(value, list) else value

    def is_escaped(self, text: str) -> bool:
        """Whether a rendered text has something to put back."""
        return not text.isascii() and any(character in text for character in self._all_marks)

    def restore(self, text: str, split: str = "") -> str:
        """Return a text as the client wrote it.

        Args:
            text: escaped.
            split: what to write for each :data:`SPLIT`.
        """
        written = self._written | {SPLIT: split}
        return self._any_mark.sub(lambda match: match[1] or written.get(match[0], ""), text)

    def _is_harmless(self, text: str) -> bool:
        for sign in self._signs:
            if sign in text:
                return not (self._found.search(text) or self._edges(text) or self.is_escaped(text))
        return not self.is_escaped(text)

    def _escape(self, text: str) -> str:
        text = self._any_written.sub(lambda match: ESCAPE + match[0], text)
        found = 1
        while found:
            # Breaking one token may lay another one open that overlaps with it.
            text, found = self._found.subn(self._broken, text)
        characters = list(text)
        for place in self._edges(text):
            characters[place] = self._marks[characters[place]]
        return "".join(characters)

    def _broken(self, match: re.Match[str]) -> str:
        sign = match[0].strip()[0]
        return match[0].replace(sign, self._marks[sign], 1)

    def _edges(self, text: str) -> list[int]:
        """Return the places of characters that would complete a token with what a template writes beside the text."""
        stripped = text.strip()
        if not (stripped.startswith(self._endings) or stripped.endswith(self._beginnings)):
            return []
        start = text.find(stripped)
        end = start + len(stripped)
        places = {start + len(ending) - 1 for ending in self._endings if stripped.startswith(ending)}
        return sorted(places | {end - len(part) for part in self._beginnings if stripped.endswith(part)})


def _halves(tokens: Collection[str], template: str, *, is_first_ours: bool) -> set[tuple[str, str]]:
    """Return the pairs that make up a token, of which a template writes one and a client could write the other.

    Args:
        tokens: all of them.
        template: its source; all pairs if it is empty.
        is_first_ours: whether the template writes the first or the second of a pair.
    """
    pairs = {(token[:place], token[place:]) for token in tokens for place in range(1, len(token))}
    pairs = {(a, b) for a, b in pairs if not (a[0].isspace() or b[-1].isspace())}
    if not template:
        return pairs
    ours = {pair[0] if is_first_ours else pair[1] for pair in pairs}
    written = {half for half in ours if half in template}
    if is_first_ours:
        return {(a, b) for a, b in pairs if a in written and template.count(a) > template.count(a + b[0])}
    return {(a, b) for a, b in pairs if b in written and template.count(b) > template.count(a[-1] + b)}
