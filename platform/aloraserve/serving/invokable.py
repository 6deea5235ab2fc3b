"""The adapters that a chat lets the base model invoke."""

from __future__ import annotations

from typing import NamedTuple

from aloraserve.adapters import AdapterRegistry, AdapterVersion
from aloraserve.errors import InvalidRequestError, UnknownModelError
from aloraserve.serving.conversation import conversation_key
from aloraserve.serving.invocation_finder import InvocationFinder, InvocationIndex
from aloraserve.serving.request import GenerationRequest
from aloraserve.wire.chat import ChatRequest


class _Caller(NamedTuple):
    """Who asks, and what stands for the conversation."""

    tenant: str | None
    key: str


class InvokableAdapters:
    """Finds the adapters of a chat's field ``adapters``.

    Args:
        registry: of the adapters that are served.
    """

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry
        self._served: tuple[AdapterVersion, ...] = ()
        self._index = InvocationIndex(())

    def finder(self, body: ChatRequest, request: GenerationRequest) -> InvocationFinder | None:
        """Return what finds the invocations that a chat's answer may contain, None if it is to contain none.

        Args:
            body: of the chat; its ``adapters`` are "auto" for every aLoRA that the caller may use, or names.
            request: made of it.

        Raises:
            InvalidRequestError: the chat is not one in which adapters can be invoked, or a name is not an aLoRA's.
            UnknownModelError: a name is not served.
        """
        if not body.adapters:
            return None
        problem = _problem(request)
        if problem:
            raise InvalidRequestError(f"'adapters' is accepted only {problem}", param="adapters")
        caller = _Caller(request.origin.caller.tenant, conversation_key(body, request.origin))
        if isinstance(body.adapters, str):
            return InvocationFinder(self._all(), lambda adapter: self._chosen(adapter.name, caller))
        return InvocationFinder(InvocationIndex([self._named(name, caller) for name in body.adapters]))

    def _named(self, name: str, caller: _Caller) -> AdapterVersion:
        version = self._resolve(name, caller)
        if not version.invocation_ids:
            raise InvalidRequestError(
                f"adapters has {version.name!r}, which is a plain LoRA; those with an invocation are accepted",
                param="adapters",
            )
        return version

    def _all(self) -> InvocationIndex:
        """Return the invocations of all that is served; the caller's own version is chosen where one is found."""
        served = tuple(self._registry.all())
        if served != self._served:
            self._served, self._index = served, InvocationIndex(served)
        return self._index

    def _chosen(self, name: str, caller: _Caller) -> AdapterVersion | None:
        try:
            return self._resolve(name, caller)
        except UnknownModelError:
            # It is private to another tenant, or has gone meanwhile.
            return None

    def _resolve(self, name: str, caller: _Caller) -> AdapterVersion:
        return self._registry.resolve(name, tenant=caller.tenant, key=caller.key)


def _problem(request: GenerationRequest) -> str:
    """Return under which condition adapters can be invoked, if a request does not meet it."""
    if request.adapter is not None:
        return "with the base model as 'model'"
    if request.sampling.n > 1:
        return "with 'n' 1"
    return "without a form of the answer" if request.sampling.structured is not None else ""
