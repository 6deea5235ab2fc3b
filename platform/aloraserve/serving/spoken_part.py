"""One part of an answer in which the base model and adapters take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aloraserve.adapters import AdapterVersion
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.invocation_finder import InvocationFinder
from aloraserve.serving.request import GenerationRequest

Decode = Callable[[Sequence[int]], str]
"""Returns the text of tokens, without special ones."""


class SpokenPart:
    """What one model has generated so far, cut where it ends.

    The base model's part ends behind the first invocation; an adapter's where the adapter ends.

    Args:
        request: of the part.
        finder: of invocations, for a part of the base model.
        decode: see :data:`Decode`.

    Attributes:
        request: likewise.
        token_ids: generated, without the token that ends an answer.
        finish_reason: of the part, None before.
        invoked: the adapter that the base model has invoked.
    """

    def __init__(self, request: GenerationRequest, finder: InvocationFinder, decode: Decode) -> None:
        self.request = request
        self._finder = finder
        self._decode = decode
        self.forget()

    def forget(self) -> None:
        """Begin again."""
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.invoked: AdapterVersion | None = None
        self._text = ""

    @property
    def is_over(self) -> bool:
        """Whether the part has ended."""
        return self.invoked is not None or self.finish_reason is not None

    @property
    def hands_over(self) -> bool:
        """Whether somebody else goes on: the adapter that was invoked, or the base model after an adapter."""
        return self.invoked is not None or self.request.adapter is not None

    def hear(self, chunk: EngineChunk) -> EngineChunk:
        """Note a chunk; return what of it belongs to the answer, without its reason and its token ids."""
        begin = len(self.token_ids)
        self.token_ids += chunk.token_ids
        self.finish_reason = chunk.finish_reason
        found = self._finder.find(self.token_ids, begin) if self.request.adapter is None else None
        if found is None:
            self._drop_end(chunk)
            self._text += chunk.text
            return replace(chunk, finish_reason=None, token_ids=())
        text = self._text_until(found.end, chunk.text)
        self.invoked = found.adapter
        del self.token_ids[found.end :]
        kept = found.end - begin
        return replace(chunk, text=text, tokens=kept, finish_reason=None, logprobs=chunk.logprobs[:kept], token_ids=())

    def _drop_end(self, chunk: EngineChunk) -> None:
        """Forget the token by which a model ends its answer: what follows is still the same turn."""
        if chunk.finish_reason == "stop" and self.token_ids and not self._decode(self.token_ids[-1:]):
            self.token_ids.pop()

    def _text_until(self, end: int, text: str) -> str:
        """Return the part of a chunk's text that stands before a token.

        Args:
            end: index of the token.
            text: of the chunk; an engine may hold back text that could be the begin of a stop string.
        """
        whole, kept = self._decode(self.token_ids), self._decode(self.token_ids[:end])
        heard = self._text + text
        if whole.startswith(heard):
            return kept[len(self._text) :]
        # A decoder that begins in the middle of a text leaves out its first space.
        shift = max(0, len(heard) - len(whole))
        return heard[len(self._text) : len(kept) + shift]
