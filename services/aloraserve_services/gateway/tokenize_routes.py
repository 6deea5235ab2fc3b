"""The routes that say which tokens a prompt has, and which text tokens have."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.prompts.prompt_builder import TOKENIZED_AT_ONCE, PromptBuilder
from aloraserve.serving.request import Origin
from aloraserve.tenants import Tenants
from aloraserve.wire.completions import AnyPrompt
from aloraserve.wire.tokenize import DetokenizedPrompt, DetokenizeRequest, TokenizedPrompt, TokenizeRequest
from aloraserve_services.gateway.origins import origin_of
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes


class TokenizeRoutes:
    """Answers with exactly the tokens that a call's prompt would have, an adapter's invocation included.

    Args:
        tenants: know who may ask.
        prompts: makes prompts of bodies, for calls too.
        bodies: reads requests' bodies.
        base_model: its served name.
        max_model_len: tokens of a prompt and its answer together.
    """

    def __init__(
        self, tenants: Tenants, prompts: PromptBuilder, bodies: BodyReader, *, base_model: str, max_model_len: int
    ) -> None:
        self._tenants = tenants
        self._prompts = prompts.unbounded()
        self._bodies = bodies
        self._base_model = base_model
        self._max_model_len = max_model_len

    def add_to(self, routes: Routes) -> None:
        """Add these routes to an application's."""
        routes.add("POST", "/tokenize", self.tokenize)
        routes.add("POST", "/detokenize", self.detokenize)

    async def tokenize(self, request: Request) -> Response:
        """Return a prompt's tokens, also of one that the context has no room for."""
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(TokenizeRequest, request)
        tokens = await self._tokens(body, origin)
        texts = self._prompts.token_texts(tokens) if body.return_token_strs else None
        return _json(
            TokenizedPrompt(count=len(tokens), max_model_len=self._max_model_len, tokens=tokens, token_strs=texts)
        )

    async def detokenize(self, request: Request) -> Response:
        """Return the text of tokens, special ones included."""
        origin = origin_of(request, self._tenants)
        body = await self._bodies.read(DetokenizeRequest, request)
        named = body.names(self._base_model)
        await self._prompts.version(named.model, named, origin)
        if len(body.tokens) <= TOKENIZED_AT_ONCE:
            return _json(DetokenizedPrompt(prompt=self._prompts.text_of(body.tokens)))
        return _json(DetokenizedPrompt(prompt=await asyncio.to_thread(self._prompts.text_of, body.tokens)))

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


def _json(answer: TokenizedPrompt | DetokenizedPrompt) -> Response:
    return Response(answer.to_json(), media_type="application/json")
