"""What an intrinsic or a guard found, as answers carry it."""

from __future__ import annotations

from typing import Any, Literal

from aloraserve.wire.responses import ResponsePart, optional


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
