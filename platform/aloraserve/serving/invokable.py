"""The adapters that a chat lets the base model invoke."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.adapters import AdapterRegistry, AdapterVersion
from aloraserve.errors import InvalidRequestError, UnknownModelError
from aloraserve.serving.invocation_finder import InvocationFinder
from aloraserve.serving.request import GenerationRequest


class InvokableAdapters:
    """Finds the adapters of a chat's field ``adapters``.

    Args:
        registry: of the adapters that are served.
    """

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry

    def finder(self, wanted: str | Sequence[str], request: GenerationRequest) -> InvocationFinder:
        """Return what finds the invocations that a chat's answer may contain.

        Args:
            wanted: "auto" for every aLoRA that the caller may use, or names.
            request: of the chat.

        Raises:
            InvalidRequestError: the chat is not one in which adapters can be invoked, or a name is not an aLoRA's.
            UnknownModelError: a name is not served.
        """
        problem = _problem(request)
        if problem:
            raise InvalidRequestError(f"'adapters' is accepted only {problem}", param="adapters")
        if isinstance(wanted, str):
            return InvocationFinder(self._all(request))
        versions = [self._resolve(name, request) for name in wanted]
        for version in versions:
            if not version.invocation_ids:
                raise InvalidRequestError(
                    f"adapters has {version.name!r}, which is a plain LoRA; those with an invocation are accepted",
                    param="adapters",
                )
        return InvocationFinder(versions)

    def _all(self, request: GenerationRequest) -> list[AdapterVersion]:
        found = []
        for name in sorted({version.name for version in self._registry.all() if version.invocation_ids}):
            try:
                found.append(self._resolve(name, request))
            except UnknownModelError:
                # It is private to another tenant, or has gone meanwhile.
                continue
        return found

    def _resolve(self, name: str, request: GenerationRequest) -> AdapterVersion:
        origin = request.origin
        return self._registry.resolve(name, tenant=origin.caller.tenant, key=origin.session or origin.request_id)


def _problem(request: GenerationRequest) -> str:
    """Return under which condition adapters can be invoked, if a request does not meet it."""
    if request.adapter is not None:
        return "with the base model as 'model'"
    if request.sampling.n > 1:
        return "with 'n' 1"
    return "without a form of the answer" if request.sampling.structured is not None else ""
