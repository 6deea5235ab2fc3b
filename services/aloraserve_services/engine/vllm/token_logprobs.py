"""vLLM's log-probabilities as ours: what each token adds to the text, and its own bytes.

vLLM gives a token that is part of a character no text, and the one that completes it the whole character: so the texts
of an answer's tokens join to the answer. Here that holds for special tokens too: they add nothing. What a part of a
character is, its bytes say; an alternative is named by them, as OpenAI's API does.
"""

from __future__ import annotations

import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from aloraserve.serving.engine_messages import TokenLogprob, TokenLogprobs
from aloraserve.wire.sampling import SamplingSettings

LEAST_LOGPROB = -9999.0
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_BYTE, _SPACE_MARK = "Ġ", "▁"
"""How a byte-level vocabulary and SentencePiece's write a space."""
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


class LogprobReader:
    """Reads the log-probabilities of a choice's new tokens.

    Args:
        tokenizer: the engine's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        vocabulary = tokenizer.get_vocab()
        # Other vocabularies have some of the characters that stand for bytes as what they are.
        self._is_byte_level = _SPACE_BYTE in vocabulary and _SPACE_MARK not in vocabulary

    def read(self, choice: Any, sampling: SamplingSettings) -> tuple[TokenLogprobs, ...]:
        """Return each new token with its likeliest alternatives; vLLM lists the chosen token beside them."""
        if not choice.logprobs:
            return ()
        hidden = self._special if sampling.skip_special_tokens else frozenset[int]()
        if isinstance(choice.stop_reason, int) and not sampling.include_stop:
            hidden |= {choice.stop_reason}
        return tuple(
            self._token(step, token, sampling.logprobs or 0, hidden)
            for step, token in zip(choice.logprobs, choice.token_ids, strict=True)
        )

    def of_prompt(self, output: Any, sampling: SamplingSettings) -> tuple[TokenLogprobs | None, ...]:
        """Return each token of the prompt, the first without anything, if this output has them."""
        steps, count = output.prompt_logprobs, sampling.prompt_logprobs
        if count is None or not steps:
            return ()
        # vLLM puts the prompt's own token first.
        return tuple(None if step is None else self._prompt_token(step, next(iter(step)), count) for step in steps)

    def _prompt_token(self, step: dict[int, Any], token: int, alternatives: int) -> TokenLogprobs:
        return TokenLogprobs(self._alternative(token, step[token]), self._ranked(step, alternatives))

    def _token(self, step: dict[int, Any], token: int, alternatives: int, hidden: frozenset[int]) -> TokenLogprobs:
        chosen = step[token]
        text = "" if token in hidden else chosen.decoded_token or ""
        raw = b"" if token in hidden else self._part(token, text)
        return TokenLogprobs(
            TokenLogprob(text, _finite(chosen), raw, token, chosen.rank or 0), self._ranked(step, alternatives)
        )

    def _ranked(self, step: dict[int, Any], alternatives: int) -> tuple[TokenLogprob, ...]:
        ranked = sorted(((entry.rank, number) for number, entry in step.items() if entry.rank <= alternatives))
        return tuple(self._alternative(number, step[number]) for _, number in ranked)

    def _alternative(self, token: int, entry: Any) -> TokenLogprob:
        text = entry.decoded_token or ""
        raw = self._part(token, text)
        name = text if raw is None or text else "".join(f"\\x{byte:02x}" for byte in raw)
        return TokenLogprob(name, _finite(entry), raw, token, entry.rank or 0)

    def _part(self, token: int, text: str) -> bytes | None:
        """Return a token's own bytes if they are not its text's, which only part of a character's can be."""
        if text.isascii() and text:
            return None
        raw = piece_bytes(str(self._tokenizer.convert_ids_to_tokens(token)), byte_level=self._is_byte_level)
        return None if raw is None or raw == text.encode() else raw


def piece_bytes(piece: str, *, byte_level: bool) -> bytes | None:
    """Return the bytes of a vocabulary's entry, None if it does not say.

    Args:
        piece: of a byte-level BPE, or a byte of a vocabulary that falls back on bytes.
        byte_level: whether characters stand for bytes, as in GPT-2's vocabulary.
    """
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match[1])
    if byte_level and all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return None


def _finite(entry: Any) -> float:
    return max(float(entry.logprob), LEAST_LOGPROB)
