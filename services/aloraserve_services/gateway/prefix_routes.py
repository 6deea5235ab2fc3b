"""The routes for prefixes that all tenants share; for administrators."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import UNTENANTED, Tenants
from aloraserve.tenants.shared_prefix import SharedPrefixes
from aloraserve.wire import ChatRequest, CompletionRequest
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.shared_prefixes import PrefixRequest, prefix_json
from aloraserve_services.gateway.origins import for_administrators
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.request_context import context_of
from aloraserve_services.gateway.routes import PARAMETER, Routes, as_json, parameters

ENDINGS = ("a", "b")
"""What two chats with a prefix go on with: the prefix is what both have in common, whatever the template adds."""


class PrefixRoutes:
    """Has all tenants share the blocks of a prefix.

    Args:
        prefixes: of the fleet.
        tenants: know who may ask.
        prompts: makes tokens of messages, as in a chat.
        bodies: reads requests' bodies.
        base_model: its served name.
        block_tokens: tokens per block.
    """

    def __init__(
        self,
        prefixes: SharedPrefixes,
        tenants: Tenants,
        prompts: PromptBuilder,
        bodies: BodyReader,
        *,
        base_model: str,
        block_tokens: int,
    ) -> None:
        self._prefixes = prefixes
        self._tenants = tenants
        self._prompts = prompts
        self._bodies = bodies
        self._base_model = base_model
        self._block_tokens = block_tokens

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        path = f"/v1/admin/shared-prefixes/{PARAMETER}"
        routes.add("GET", "/v1/admin/shared-prefixes", for_administrators(self._tenants, self.listed))
        routes.add("PUT", path, for_administrators(self._tenants, self.put))
        routes.add("DELETE", path, for_administrators(self._tenants, self.delete))

    async def listed(self, request: Request) -> Response:
        """List the prefixes."""
        found = [prefix_json(record, self._block_tokens) for record in await self._prefixes.list()]
        return as_json({"object": "list", "data": found})

    async def put(self, request: Request) -> Response:
        """Have all tenants share a prefix from now on."""
        body = await self._bodies.read(PrefixRequest, request)
        [name] = parameters(request)
        context = context_of(request)
        origin = Origin(context.request_id, UNTENANTED, context.arrived_at)
        record = await self._prefixes.put(name, await self._token_ids(body, origin))
        return as_json(prefix_json(record, self._block_tokens))

    async def delete(self, request: Request) -> Response:
        """Share a prefix no more."""
        [name] = parameters(request)
        await self._prefixes.delete(name)
        return as_json({"deleted": name})

    async def _token_ids(self, body: PrefixRequest, origin: Origin) -> list[int]:
        if body.text is not None:
            completion = CompletionRequest(model=self._base_model, prompt=body.text, max_tokens=1)
            return (await self._prompts.completion(completion, origin)).token_ids
        messages = [ChatMessage(role=message.role, content=message.content) for message in body.messages or ()]
        one, other = [await self._chat(messages, ending, origin) for ending in ENDINGS]
        shared = next((index for index, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), 0)
        return one[:shared]

    async def _chat(self, messages: Sequence[ChatMessage], ending: str, origin: Origin) -> list[int]:
        whole = [*messages, ChatMessage(role="user", content=ending)]
        chat = ChatRequest(model=self._base_model, messages=whole, max_tokens=1)
        return (await self._prompts.chat(chat, origin)).token_ids
