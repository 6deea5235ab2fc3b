"""A tokenizer's ids of a text, and where a text may be cut so that its parts have the same ids as the whole.

A fast tokenizer first takes its added tokens out of a text, leftmost and longest first, and then encodes each part
between them. So what stands before an added token says nothing of what stands after it, with three exceptions: tokens
that look at their neighbours (``lstrip``, ``rstrip``, ``single_word``), those that are looked for after normalization,
and pre-tokenizers that treat a text's first part in another way. A text is cut only behind special tokens that are none
of these, what follows is encoded with that token before it, and each such token has to prove itself at the start.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import structlog

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.escaping import Escaping
from aloraserve.serving.prompts.literal_encoder import LiteralEncoder
from aloraserve.serving.prompts.template_tokens import template_tokens
from aloraserve.serving.prompts.token_pattern import pattern_of

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
        escaping: for client text before it is rendered.
        size: of the vocabulary.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.size = len(tokenizer)
        self._tokenizer = tokenizer
        self._backend = _plain_backend(tokenizer)
        template = getattr(tokenizer, "chat_template", None)
        self.escaping = Escaping(template_tokens(tokenizer), template if isinstance(template, str) else "")
        self._literal: LiteralEncoder | None = None
        self._making = threading.Lock()
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
        """Return the ids that a rendered text has behind one of :attr:`cuts`; all of its ids if ``cut`` is empty.

        What is escaped in it is put back and is encoded as text, special tokens or not.

        Raises:
            InvalidRequestError: this tokenizer cannot do that.
        """
        whole = cut + text
        ids = self._literal_ids(whole) if self.escaping.is_escaped(whole) else self.ids(whole)
        return ids[1:] if cut else ids

    def _literal_ids(self, text: str) -> list[int]:
        try:
            return self._literal_encoder().ids(text)
        except ValueError as error:
            log.warning("special_tokens_refused", cause=str(error))
            raise InvalidRequestError(
                "the messages hold the text of a special token of the model, which its tokenizer takes for the "
                f"token itself; leave out {', '.join(sorted(self.escaping.tokens)[:10])} and the like",
                param="messages",
            ) from None

    def _literal_encoder(self) -> LiteralEncoder:
        with self._making:
            if self._literal is None:
                if self._backend is None:
                    raise ValueError("the tokenizer is not one in Rust")
                self._literal = LiteralEncoder(self._backend, self.escaping)
            return self._literal

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
