"""The contract of whoever lets calls in, before they are placed: the limits of tenants stand behind it.

Every call passes it, whichever edge it comes from, also those that guards, intrinsics and self-invocation add. A call
that is let in gets a ticket, which is settled once: with what the call used, or with the error that ended it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aloraserve.routing.fair_share import TenantShare
from aloraserve.serving.request import GenerationRequest


class CallUsage(NamedTuple):
    """Tokens that a call used.

    Args:
        prompt_tokens: the prompt's length.
        cached_tokens: of those, not prefilled.
        generated_tokens: of all choices.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens that were prefilled."""
        return max(0, self.prompt_tokens - self.cached_tokens)


class Ticket(Protocol):
    """A call's way in. Neither call waits or raises; the first of them counts."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that say where the tenant stands; empty for one without limits."""
        ...

    @property
    def share(self) -> TenantShare | None:
        """Of the tenant, for the engine; None without tenants."""
        ...

    def settle(self, usage: CallUsage) -> None:
        """Note that the call's answer has ended, however it did."""
        ...

    def fail(self, error: BaseException) -> None:
        """Note that the call ended without an answer."""
        ...


class Admission(Protocol):
    """See the module's docstring. For one event loop."""

    async def admit(self, request: GenerationRequest) -> Ticket:
        """Let a call in.

        Takes bounded time, whatever becomes of a server that it asks.

        Raises:
            RateLimitedError: its tenant is over a limit of its own; nothing was taken.
            LimitTooLowError: it is larger than a limit, so that it would never be let in.
        """
        ...


class OpenTicket:
    """See :class:`Ticket`; nobody counts."""

    headers: Mapping[str, str] = MappingProxyType({})
    share: TenantShare | None = None

    def settle(self, usage: CallUsage) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        pass


class OpenAdmission:
    """See :class:`Admission`; lets everyone in."""

    async def admit(self, request: GenerationRequest) -> Ticket:
        return OPEN_TICKET


OPEN_TICKET: Ticket = OpenTicket()
OPEN: Admission = OpenAdmission()
