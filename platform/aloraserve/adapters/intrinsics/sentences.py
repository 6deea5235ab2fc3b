"""Sentences of a text, numbered by tags, as granite-common marks them for models that cite.

granite-common splits by nltk's Punkt without training data; nltk is not among the platform's dependencies. So the rule
stands here: a sentence ends after ``.``, ``?`` or ``!`` (and closing marks) before white space, not after an initial.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from aloraserve.errors import InvalidRequestError

MAX_SENTENCES = 4096
_END = re.compile(r"[.?!][\"'”’)\]}]*(\s+)(?=\S)")
_INITIAL = re.compile(r"(?:^|[\s\"'(\[])[A-Za-z]\.$")


def split_sentences(text: str) -> list[str]:
    """Return a text's sentences, without the white space between them; a text without an end is one.

    Raises:
        InvalidRequestError: there are more than :data:`MAX_SENTENCES`.
    """
    sentences, start = [], 0
    for end in _END.finditer(text):
        before = text[max(start, end.start(1) - 3) : end.start(1)]
        if _INITIAL.search(before) and text[end.end()].isupper():
            continue
        sentences.append(text[start : end.start(1)])
        start = end.end()
        if len(sentences) >= MAX_SENTENCES:
            raise InvalidRequestError(
                f"a text has more than {MAX_SENTENCES} sentences, the most that an intrinsic numbers", param="messages"
            )
    return [*sentences, text[start:]]


def number_sentences(texts: Iterable[str], tag: str) -> list[str]:
    """Return texts with ``<tag0> ``, ``<tag1> `` ... before their sentences, counted through all of them.

    Raises:
        InvalidRequestError: a text has such a tag itself and would point the model, or its answer, to another place.
    """
    mark = re.compile(rf"<{re.escape(tag)}\d+> ")
    numbered, number = [], 0
    for text in texts:
        if mark.search(text):
            raise InvalidRequestError(
                f"a text has the tag <{tag}0> or its like, which numbers sentences for this intrinsic", param="messages"
            )
        sentences = split_sentences(text)
        numbered.append(" ".join(f"<{tag}{number + at}> {sentence}" for at, sentence in enumerate(sentences)))
        number += len(sentences)
    return numbered
