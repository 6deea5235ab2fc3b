"""``POST /v1/intrinsics``: several intrinsics over one conversation, and what each of them found."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from aloraserve.wire.chat import MAX_MESSAGES, ChatRequest, TemplateKwargs
from aloraserve.wire.documents import Documents
from aloraserve.wire.fields import ABSENT, CallFields, refusal
from aloraserve.wire.intrinsic_items import IntrinsicItem, IntrinsicItems, items_of
from aloraserve.wire.intrinsic_results import IntrinsicResult
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.responses import ResponsePart
from aloraserve.wire.sampling_fields import CacheSalt, Priority
from aloraserve.wire.tools import MAX_TOOLS, Tool

DEFAULT_TIMEOUT_S = 120.0
MAX_TIMEOUT_S = 600.0


class IntrinsicsRequest(CallFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One conversation, and the intrinsics that look at it; fields of chats that are not here are refused."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    intrinsics: Annotated[IntrinsicItems, Meta(min_length=1)]
    documents: Documents | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: TemplateKwargs = ABSENT
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None
    timeout_s: Annotated[float, Meta(ge=0.1, le=MAX_TIMEOUT_S)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conversation("-").adapter_name is not None:
            raise refusal("chat_template_kwargs", "has an 'adapter_name'; adapters are named in 'intrinsics' here")

    @property
    def items(self) -> list[IntrinsicItem]:
        """The intrinsics."""
        return items_of(self.intrinsics, IntrinsicItem)

    def conversation(self, model: str) -> ChatRequest:
        """Return the conversation as a chat with a model.

        Args:
            model: the base model's served name.
        """
        return ChatRequest(
            model=model,
            messages=self.messages,
            documents=self.documents,
            tools=self.tools,
            chat_template_kwargs=self.chat_template_kwargs,
            cache_salt=self.cache_salt,
            priority=self.priority,
        )


class IntrinsicsAnswer(ResponsePart):
    """Answer of ``POST /v1/intrinsics``: a result per intrinsic, in the request's order."""

    id: str
    object: Literal["intrinsics"] = "intrinsics"
    created: int
    results: list[IntrinsicResult]
