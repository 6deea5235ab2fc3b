"""What stands for a conversation while it goes on: a canary's choice has to be the same for each of its calls."""

from __future__ import annotations

from typing import Protocol

from aloraserve.adapters import AdapterVersion
from aloraserve.serving.request import Origin
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import CompletionRequest

OPENING_CHARACTERS = 1024
OPENING_TOKENS = 256


class Resolve(Protocol):
    """Finds the adapter version of a call, see :func:`aloraserve.adapters.served.resolved`."""

    async def __call__(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """Return the version that is served under a name now."""
        ...


def conversation_key(body: ChatRequest | CompletionRequest, origin: Origin) -> str:
    """Return the client's session id, else how the conversation begins: later turns begin alike."""
    if origin.session is not None:
        return origin.session
    if isinstance(body, ChatRequest):
        return _opening(body)
    prompt = body.one_prompt
    return prompt[:OPENING_CHARACTERS] if isinstance(prompt, str) else repr(prompt[:OPENING_TOKENS])


def _opening(body: ChatRequest) -> str:
    """Return what is said until the first user message, that included."""
    texts = []
    for message in body.messages:
        texts.append(message.text[:OPENING_CHARACTERS])
        if message.role == "user":
            break
    return "\0".join(texts)
