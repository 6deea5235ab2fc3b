"""vLLM's two routes for adapters, over the manager: same bodies, same answers
(``vllm/entrypoints/serve/lora/api_router.py`` and ``openai/models/serving.py`` of 0.32).

What vLLM loads into one engine is registered for all replicas here, and checked first: an adapter that it would not
load is refused with 400, where vLLM answers 500.
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.adapters.management import AdapterManager, RegistrationRequest
from aloraserve.errors import (
    AdapterConflictError,
    AdapterSourceError,
    InvalidRequestError,
    UnknownAdapterError,
)
from aloraserve.tenants import Role, Tenants
from aloraserve.wire.adapters import LoadLoraRequest, UnloadLoraRequest
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes

REASON = "vLLM's API"


class LoraRoutes:
    """See the module's docstring. For administrators alone, where there are keys.

    Args:
        manager: does what is asked for.
        tenants: know who may ask.
        bodies: reads requests' bodies.
        base_model: its served name.
    """

    def __init__(self, manager: AdapterManager, tenants: Tenants, bodies: BodyReader, *, base_model: str) -> None:
        self._manager = manager
        self._tenants = tenants
        self._bodies = bodies
        self._base_model = base_model

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("POST", "/v1/load_lora_adapter", self.load)
        routes.add("POST", "/v1/unload_lora_adapter", self.unload)

    async def load(self, request: Request) -> Response:
        """Register an adapter, or in place another version of it."""
        self._check(request)
        body = await self._bodies.read(LoadLoraRequest, request)
        name = body.lora_name
        if not name or not body.lora_path:
            return _failed("Both 'lora_name' and 'lora_path' must be provided.")
        if name == self._base_model:
            return _failed(f"The lora adapter '{name}' conflicts with a served base model.")
        if not body.load_inplace and await self._is_there(name):
            return _failed(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True."
            )
        try:
            await self._load(name, body.lora_path)
        except (UnknownAdapterError, AdapterSourceError) as error:
            return _failed(error.message, "NotFoundError", 404)
        except (AdapterConflictError, InvalidRequestError) as error:
            return _failed(error.message)
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        """Delete an adapter with all its versions; calls that run end on it."""
        self._check(request)
        name = (await self._bodies.read(UnloadLoraRequest, request)).lora_name
        if not name:
            return _failed("'lora_name' needs to be provided to unload a LoRA adapter.")
        if not await self._is_there(name):
            return _failed(f"The lora adapter '{name}' cannot be found.", "NotFoundError", 404)
        await self._manager.delete(name, reason=REASON, force=True)
        return Response(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _load(self, name: str, path: str) -> None:
        """Register what is at a path, and have the name stand for it.

        Raises:
            AdapterSourceError: there is no adapter at that path.
            AloraserveError: it cannot be registered.
        """
        registration = await self._manager.register(RegistrationRequest(name, _source(path), reason=REASON))
        try:
            await registration.finished()
        except AdapterConflictError:
            if registration.report is None:
                raise
            # The same content is loaded again: the name may have stood for another one since.
            await self._manager.point(name, f"{name}@{registration.report.facts.digest}", reason=REASON)

    async def _is_there(self, name: str) -> bool:
        try:
            return not (await self._manager.get(name)).is_deleted
        except UnknownAdapterError:
            return False

    def _check(self, request: Request) -> None:
        self._tenants.authenticate(request.headers.get("authorization"), Role.ADMIN)


def _source(path: str) -> str:
    """Return the source that vLLM would read: a folder, or a repository of the hub."""
    is_repository = "://" not in path and not path.startswith(("/", ".", "~")) and path.count("/") == 1
    return f"hf://{path}" if is_repository else path


def _failed(message: str, kind: str = "InvalidUserInput", status: int = 400) -> Response:
    """Return vLLM's body of an error (``vllm/entrypoints/serve/engine/protocol.py``)."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Response(json.dumps({"error": error}), status, media_type="application/json")
