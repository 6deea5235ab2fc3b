"""The contract of whoever lets calls in, before they are placed: the limits of tenants stand behind it.

Every call passes it, whichever edge it comes from, also those that guards, intrinsics and self-invocation add. A call
that is let in gets a ticket, which is settled once: with what the call used, or with the error that ended it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aloraserve.routing.fair_share import TenantShare
from aloraserve.serving.request import GenerationRequest, Origin


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


NOTHING_USED = CallUsage(0, 0, 0)


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

    def fail(self, error: BaseException, usage: CallUsage) -> None:
        """Note that the call ended without an answer.

        Args:
            error: that ended it.
            usage: of engines until then, as far as is known.
        """
        ...


class Admission(Protocol):
    """See the module's docstring. For one event loop."""

    async def admit(self, requests: Sequence[GenerationRequest]) -> Sequence[Ticket]:
        """Let calls of one request in: all of them, or none.

        Takes bounded time, whatever becomes of a server that it asks.

        Args:
            requests: the calls, at least one.

        Returns:
            A ticket for each, in order.

        Raises:
            RateLimitedError: their tenant is over a limit of its own; nothing was taken.
            LimitTooLowError: they are larger than a limit, so that they would never be let in.
        """
        ...

    def place(self, origin: Origin) -> AbstractContextManager[None]:
        """Keep a request's place among its tenant's running ones until the context ends, between its calls too."""
        ...


class OpenTicket:
    """See :class:`Ticket`; nobody counts."""

    headers: Mapping[str, str] = MappingProxyType({})
    share: TenantShare | None = None

    def settle(self, usage: CallUsage) -> None:
        pass

    def fail(self, error: BaseException, usage: CallUsage) -> None:
        pass


class OpenAdmission:
    """See :class:`Admission`; lets everyone in."""

    async def admit(self, requests: Sequence[GenerationRequest]) -> Sequence[Ticket]:
        return [OPEN_TICKET] * len(requests)

    def place(self, origin: Origin) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


OPEN_TICKET: Ticket = OpenTicket()
OPEN: Admission = OpenAdmission()
