"""From a validated body to a request: rendered, tokenized and invoked once, for every edge alike.

It is here and not in a gateway because each edge needs it, and because the token ids that it makes are what keys,
routing and engines agree on. The tokenizer is passed in: nothing here loads a model's files.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jinja2

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect, KeySpace, activation_point
from aloraserve.errors import InvalidRequestError
from aloraserve.routing.base import Call
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from aloraserve.wire.sampling import SamplingSettings

_RESERVED = frozenset({"messages", "tools", "documents", "return_dict"})
_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""What a template raises over messages or arguments that it was not made for."""


class PromptBuilder:
    """Renders and tokenizes, off the event loop.

    Args:
        tokenizer: of the base model, with its chat template.
        keyspace: what block keys belong to.
        base_model: served name of the base model.
        max_model_len: tokens of a prompt and its answer together.
        resolve: returns the adapter version that is served under a name now, or raises
            :class:`~aloraserve.errors.UnknownModelError`.
    """

    def __init__(
        self,
        tokenizer: Any,
        keyspace: KeySpace,
        *,
        base_model: str,
        max_model_len: int,
        resolve: Callable[[str], AdapterVersion],
    ) -> None:
        self._tokenizer = tokenizer
        self._keyspace = keyspace
        self._base_model = base_model
        self._max_model_len = max_model_len
        self._resolve = resolve
        # The tokenizer's own arguments: "chat_template" among them would run a program of the client's.
        self._reserved = _RESERVED | set(inspect.signature(tokenizer.apply_chat_template).parameters)

    async def chat(self, body: ChatRequest, origin: Origin) -> GenerationRequest:
        """Return the request of a chat body.

        An aLoRA's invocation takes the place of the generation prompt, unless the conversation contains it already.

        Raises:
            UnknownModelError: the model is not served.
            InvalidRequestError: the template refuses the messages, or the prompt is too long.
        """
        adapter = self._adapter(_model_of(body, self._base_model))
        token_ids = await asyncio.to_thread(self._chat_ids, body, adapter)
        return self._request(body, origin, token_ids, adapter, field="messages")

    async def completion(self, body: CompletionRequest, origin: Origin) -> GenerationRequest:
        """Return the request of a completion body; raises like :meth:`chat`."""
        adapter = self._adapter(body.model)
        token_ids = await asyncio.to_thread(self._completion_ids, body.prompt)
        return self._request(body, origin, token_ids, adapter, field="prompt", default_tokens=DEFAULT_MAX_TOKENS)

    def _adapter(self, model: str) -> AdapterVersion | None:
        return None if model == self._base_model else self._resolve(model)

    def _chat_ids(self, body: ChatRequest, adapter: AdapterVersion | None) -> list[int]:
        with_prompt = self._render_chat(body, add_generation_prompt=True)
        if adapter is None or not adapter.invocation_ids:
            return with_prompt
        if activation_point(with_prompt, adapter.invocation_ids) is not None:
            return with_prompt
        return [*self._render_chat(body, add_generation_prompt=False), *adapter.invocation_ids]

    def _render_chat(self, body: ChatRequest, *, add_generation_prompt: bool) -> list[int]:
        messages = [message.for_template() for message in body.messages]
        given = body.template_kwargs()
        reserved = sorted(self._reserved & set(given))
        if reserved:
            raise InvalidRequestError(f"chat_template_kwargs cannot set {reserved[0]!r}", param="chat_template_kwargs")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **given
            )
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequestError(f"the chat template refuses the messages: {error}", param="messages") from None
        return self._ids(str(text), special=False)

    def _completion_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._ids(prompt, special=True)
        size = len(self._tokenizer)
        wrong = next((token for token in prompt if token >= size), None)
        if wrong is not None:
            raise InvalidRequestError(f"prompt has token id {wrong}; the vocabulary has {size}", param="prompt")
        return prompt

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _request(
        self,
        body: ChatRequest | CompletionRequest,
        origin: Origin,
        token_ids: list[int],
        adapter: AdapterVersion | None,
        *,
        field: str,
        default_tokens: int | None = None,
    ) -> GenerationRequest:
        token_ids, activation = _activated(token_ids, adapter)
        return GenerationRequest(
            origin,
            body.model,
            token_ids,
            self._bounded(len(token_ids), body.sampling(), field, default_tokens),
            self._call(origin, token_ids, adapter, activation),
            adapter,
            activation,
            is_streamed=bool(body.stream),
        )

    def _call(
        self, origin: Origin, token_ids: list[int], adapter: AdapterVersion | None, activation: int | None
    ) -> Call:
        effect = None
        if adapter is not None and activation is not None:
            effect = AdapterEffect(adapter.name, adapter.digest, activation)
        return Call(
            prompt_tokens=len(token_ids),
            block_tokens=self._keyspace.block_tokens,
            keys=self._keyspace.keys(token_ids, cache_salt=origin.caller.cache_salt, adapter=effect),
            adapter=adapter.name if adapter else None,
            session=origin.session,
        )

    def _bounded(
        self, prompt_tokens: int, sampling: SamplingSettings, field: str, default_tokens: int | None
    ) -> SamplingSettings:
        """Return the sampling with ``max_tokens`` set; refuse what the context has no room for."""
        limit = self._max_model_len
        if prompt_tokens == 0:
            raise InvalidRequestError("the prompt has no tokens; at least 1 is needed", param=field)
        if prompt_tokens >= limit:
            raise InvalidRequestError(
                f"the prompt has {prompt_tokens} tokens; the model's context holds {limit}, answer included",
                param=field,
            )
        room = limit - prompt_tokens
        if sampling.max_tokens is not None and sampling.max_tokens > room:
            raise InvalidRequestError(
                f"max_tokens is {sampling.max_tokens}, but after the prompt's {prompt_tokens} tokens the model's "
                f"context of {limit} has room for {room}",
                param="max_tokens",
            )
        return replace(sampling, max_tokens=sampling.max_tokens or min(room, default_tokens or room))


def _activated(token_ids: list[int], adapter: AdapterVersion | None) -> tuple[list[int], int | None]:
    """Return the prompt with an aLoRA's invocation, appended where it is absent, and the activation point."""
    if adapter is None:
        return token_ids, None
    if not adapter.invocation_ids:
        return token_ids, 0
    activation = activation_point(token_ids, adapter.invocation_ids)
    if activation is None:
        return [*token_ids, *adapter.invocation_ids], len(token_ids)
    return token_ids, activation


def _model_of(body: ChatRequest, base: str) -> str:
    """Return the served name that a chat body means; its template may name an adapter of the base model."""
    name = body.adapter_name
    if name is None or name == body.model:
        return body.model
    if body.model != base:
        raise InvalidRequestError(
            f"model is {body.model!r} and chat_template_kwargs.adapter_name is {name[:80]!r}; send one of them, or "
            f"the base model {base!r} with an adapter_name",
            param="chat_template_kwargs.adapter_name",
        )
    return name
