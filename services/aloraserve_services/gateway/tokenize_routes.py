"""The routes that say which tokens a prompt has, and which text tokens have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.prompts.prompt_builder import TOKENIZED_AT_ONCE, PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import Tenants
from aloraserve.wire.completions import AnyPrompt
from aloraserve.wire.tokenize import DetokenizedPrompt, DetokenizeRequest, TokenizedPrompt, TokenizeRequest
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes
from aloraserve_services.gateway.tenant_turns import TenantTurns

AT_ONCE, WAITING = 2, 62
"""Of a tenant's requests: those that are answered, and those that wait for it."""


class TokenizeRoutes:
    """Answers with exactly the tokens that a call's prompt would have, an adapter's invocation included.

    Args:
        tenants: know who may ask.
        prompts: makes prompts of bodies, for calls too.
        bodies: reads requests' bodies.
        slots: of calls in progress; these take them too.
        base_model: its served name.
        max_model_len: tokens of a prompt and its answer together.
    """

    def __init__(
        self,
        tenants: Tenants,
        prompts: PromptBuilder,
        bodies: BodyReader,
        slots: CallSlots,
        *,
        base_model: str,
        max_model_len: int,
    ) -> None:
        self._tenants = tenants
        self._prompts = prompts.unbounded()
        self._bodies = bodies
        self._slots = slots
        self._turns = TenantTurns("prompts to be tokenized", at_once=AT_ONCE, waiting=WAITING)
        self._base_model = base_model
        self._max_model_len = max_model_len

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("POST", "/tokenize", self.tokenize)
        routes.add("POST", "/detokenize", self.detokenize)

    async def tokenize(self, request: Request) -> Response:
        """Return a prompt's tokens, also of one that the context has no room for."""
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(TokenizeRequest, request, origin.caller)
        async with self._turn(origin):
            tokens = await self._tokens(body, origin)
            return await _off_loop(len(tokens), self._tokenized, tokens, body)

    async def detokenize(self, request: Request) -> Response:
        """Return the text of tokens, special ones included."""
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(DetokenizeRequest, request, origin.caller)
        named = body.names(self._base_model)
        await self._prompts.version(named.model, named, origin)
        async with self._turn(origin):
            return await _off_loop(len(body.tokens), self._detokenized, body.tokens)

    @contextlib.asynccontextmanager
    async def _turn(self, origin: Origin) -> AsyncIterator[None]:
        """Have a tenant's long prompts wait for each other: threads and cores are the calls' of all tenants too."""
        with self._slots.held(origin.caller):
            async with self._turns.turn(origin.caller.tenant):
                yield

    def _tokenized(self, tokens: list[int], body: TokenizeRequest) -> Response:
        texts = self._prompts.token_texts(tokens) if body.return_token_strs else None
        return _json(
            TokenizedPrompt(count=len(tokens), max_model_len=self._max_model_len, tokens=tokens, token_strs=texts)
        )

    def _detokenized(self, tokens: list[int]) -> Response:
        return _json(DetokenizedPrompt(prompt=self._prompts.text_of(tokens)))

    async def _tokens(self, body: TokenizeRequest, origin: Origin) -> list[int]:
        if body.prompt is None:
            return (await self._prompts.chat(body.chat(self._base_model), origin)).token_ids
        prompt: AnyPrompt = body.prompt
        if body.add_special_tokens is False:
            prompt = list(await asyncio.to_thread(self._prompts.plain_ids, body.prompt))
            if not prompt:
                # Of a tokenizer that drops what this text is made of.
                return []
        return (await self._prompts.completion(body.completion(self._base_model, prompt), origin)).token_ids


async def _off_loop(tokens: int, make: Callable[..., Response], *arguments: Any) -> Response:
    """Return what is made of so many tokens, in a thread if they are many."""
    return make(*arguments) if tokens <= TOKENIZED_AT_ONCE else await asyncio.to_thread(make, *arguments)


def _json(answer: TokenizedPrompt | DetokenizedPrompt) -> Response:
    return Response(answer.to_json(), media_type="application/json")
