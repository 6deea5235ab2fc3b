"""``/v1/admin/shared-prefixes``: bodies of requests, and how a prefix is shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from aloraserve.tenants.shared_prefix import PrefixRecord
from aloraserve.wire.fields import MAX_TEXT_BYTES, RequestPart, refusal

MAX_PREFIX_MESSAGES = 64


class PrefixMessage(RequestPart, frozen=True, kw_only=True):
    """A message of a shared prefix."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_BYTES)]


class PrefixRequest(RequestPart, frozen=True, kw_only=True):
    """``PUT /v1/admin/shared-prefixes/{name}``: the messages that chats begin with, or the text of completions."""

    messages: Annotated[list[PrefixMessage], Meta(min_length=1, max_length=MAX_PREFIX_MESSAGES)] | None = None
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_BYTES)] | None = None

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.text is None):
            raise refusal("", "'messages' or 'text' is needed, and not both")


def prefix_json(record: PrefixRecord, block_tokens: int) -> dict[str, Any]:
    """Return what is shown of a prefix."""
    tokens = len(record.token_ids)
    return {
        "name": record.name,
        "tokens": tokens,
        "shared_tokens": tokens // block_tokens * block_tokens,
        "created_at": record.created_at,
    }
