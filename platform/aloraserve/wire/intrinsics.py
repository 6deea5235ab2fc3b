"""``POST /v1/intrinsics``: several intrinsics over one conversation, and what each of them found."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw

from aloraserve.wire.chat import MAX_DOCUMENTS, MAX_MESSAGES, ChatMessage, ChatRequest
from aloraserve.wire.fields import IgnoredFields
from aloraserve.wire.intrinsic_items import IntrinsicItem, IntrinsicItems, items_of
from aloraserve.wire.responses import ResponsePart, optional

DEFAULT_TIMEOUT_S = 120.0
MAX_TIMEOUT_S = 600.0


class IntrinsicsRequest(IgnoredFields, frozen=True, kw_only=True):
    """One conversation, and the intrinsics that look at it."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    intrinsics: IntrinsicItems
    documents: Annotated[list[dict[str, str | None]], Meta(max_length=MAX_DOCUMENTS)] | None = None
    chat_template_kwargs: Raw = Raw()
    timeout_s: Annotated[float, Meta(ge=0.1, le=MAX_TIMEOUT_S)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.conversation("-")

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
            chat_template_kwargs=self.chat_template_kwargs,
        )


class IntrinsicUsage(ResponsePart):
    """Token counts of one intrinsic's call."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class IntrinsicResult(ResponsePart):
    """What one intrinsic found, or why it found nothing.

    Args:
        id: of its call, as receipts know it.
        name: as it was asked for.
        adapter: name and content of the adapter version that answered; absent where none was found.
        status: "ok", or "error" with an ``error``.
        value: of the type that the intrinsic's form has.
        probability: of what it asks, 0 to 1, for forms that have one.
        probabilities: of each choice, likewise.
        text: the raw answer.
        finish_reason: of the raw answer.
        error: as the body of a failed call has it.
        status_code: of such a failed call.
        usage: token counts.
        replica: label of the replica that answered.
        ttft_ms: until the answer's first token.
        time_ms: until its end, waiting for a shared prefix included.
    """

    id: str
    name: str
    adapter: str | None = optional()
    status: Literal["ok", "error"]
    value: Any = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    text: str | None = optional()
    finish_reason: str | None = optional()
    error: dict[str, Any] | None = optional()
    status_code: int | None = optional()
    usage: IntrinsicUsage | None = optional()
    replica: str | None = optional()
    ttft_ms: float | None = optional()
    time_ms: float


class GuardResult(IntrinsicResult):
    """What a guard found, and whether it refuses."""

    threshold: float | None = None
    refused: bool


class IntrinsicsAnswer(ResponsePart):
    """Answer of ``POST /v1/intrinsics``: a result per intrinsic, in the request's order."""

    id: str
    object: Literal["intrinsics"] = "intrinsics"
    created: int
    results: list[IntrinsicResult]
