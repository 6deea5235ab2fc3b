"""How each adapter is invoked in a chat, found out once per version."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.invocation import derived_mode
from aloraserve.blocks import activation_point
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.chat_renderer import ChatRenderer
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.serving.prompts.escaping import SPLIT
from aloraserve.serving.prompts.instruction import Instruction

MAX_KNOWN = 1024
"""Versions that are remembered."""
_PROBE = [{"role": "user", "content": "x"}]


@dataclass(frozen=True, slots=True)
class Invocation:
    """How an adapter is invoked.

    Args:
        mode: where its invocation stands.
        text: of the invocation.
        ids: tokens of the invocation; a plain LoRA's are those of its text.
        instruction: the message with which it is asked, in that mode.
    """

    mode: InvocationMode
    text: str
    ids: tuple[int, ...]
    instruction: Instruction | None = None


class Invocations:
    """The invocations of the adapters of one base model. May be used by any number of threads.

    Args:
        tokenizer: of the base model.
        encoder: of the base model.
        renderer: of conversations.
    """

    def __init__(self, tokenizer: Any, encoder: Encoder, renderer: ChatRenderer) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._generation_prompt = encoder.ids(_generation_prompt(renderer))
        self._known: OrderedDict[str, Invocation] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, adapter: AdapterVersion) -> Invocation:
        """Return how an adapter is invoked that has invocation tokens or their text.

        Raises:
            InvalidAdapterError: its instruction does not have the invocation.
        """
        with self._lock:
            known = self._known.get(adapter.engine_name)
            if known is not None:
                self._known.move_to_end(adapter.engine_name)
                return known
        made = self._made(adapter)
        with self._lock:
            self._known[adapter.engine_name] = made
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return made

    def _made(self, adapter: AdapterVersion) -> Invocation:
        text = adapter.invocation_text or self._decoded(adapter.invocation_ids)
        template = adapter.intrinsic.instruction if adapter.intrinsic else None
        ids = adapter.invocation_ids or tuple(self._encoder.ids(text))
        mode = adapter.invocation_mode or derived_mode(ids, self._generation_prompt, text=text, instruction=template)
        if mode is not InvocationMode.INSTRUCTION:
            return Invocation(mode, text, ids)
        return Invocation(mode, text, ids, Instruction(template or text, text, self._divided(text, ids)))

    def _decoded(self, ids: Sequence[int]) -> str:
        decode = getattr(self._tokenizer, "decode", None)
        return str(decode(list(ids), skip_special_tokens=False)) if decode else ""

    def _divided(self, text: str, ids: Sequence[int]) -> str:
        """Return a text that is tokenized as two, so that it has other tokens; as it is if every division has these."""
        middle = len(text) // 2
        for place in sorted(range(1, len(text)), key=lambda place: abs(place - middle)):
            halves = [*self._encoder.ids(text[:place]), *self._encoder.ids(text[place:])]
            if activation_point(halves, ids) is None:
                return text[:place] + SPLIT + text[place:]
        return text


def _generation_prompt(renderer: ChatRenderer) -> str:
    """Return what a template writes for the answer to begin; empty if that is not at the end."""
    try:
        conversation = renderer.conversation(_PROBE, {})
        plain, whole = (renderer.render(conversation, add_generation_prompt=with_it) for with_it in (False, True))
    except InvalidRequestError:
        return ""
    return whole.removeprefix(plain) if whole.startswith(plain) else ""
