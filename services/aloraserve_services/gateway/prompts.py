"""From a request to the token ids that every later step works on: rendered, tokenized and invoked once."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, replace
from typing import Any

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect, activation_point
from aloraserve.errors import InvalidRequestError, UnknownModelError
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.plan import FleetPlan

MAX_NAMES_SHOWN = 20
_RESERVED = frozenset({"messages", "tools", "documents", "return_dict"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request ready to be routed.

    Args:
        model: the name that the client asked for.
        token_ids: the whole prompt, an aLoRA's invocation included.
        sampling: with ``max_tokens`` filled in.
        adapter: None for the base model.
        activation: index of the first token that the adapter changes, None for the base model.
    """

    model: str
    token_ids: list[int]
    sampling: SamplingSettings
    adapter: AdapterVersion | None = None
    activation: int | None = None

    @property
    def kind(self) -> str:
        """Return "base", "lora" or "alora"."""
        return "base" if self.adapter is None else self.adapter.kind

    @property
    def effect(self) -> AdapterEffect | None:
        """Return what the adapter does to the prompt's block keys."""
        if self.adapter is None or self.activation is None:
            return None
        return AdapterEffect(self.adapter.name, self.adapter.digest, self.activation)


class PromptMaker:
    """Renders and tokenizes, off the event loop.

    Args:
        plan: the fleet's.
        tokenizer: the base model's, with its chat template.
    """

    def __init__(self, plan: FleetPlan, tokenizer: Any) -> None:
        self._plan = plan
        self._tokenizer = tokenizer
        # The tokenizer's own arguments: "chat_template" among them would run a program of the client's.
        self._reserved = _RESERVED | set(inspect.signature(tokenizer.apply_chat_template).parameters)

    async def chat(self, request: ChatRequest) -> Prompt:
        """Return the prompt of a chat request.

        An aLoRA's invocation takes the place of the generation prompt, unless the conversation contains it already.

        Raises:
            UnknownModelError: the model is not served.
            InvalidRequestError: the template refuses the messages, or the prompt is too long.
        """
        adapter = self._adapter(_model_of(request, self._plan.served_name))
        token_ids = await asyncio.to_thread(self._render, request, adapter)
        return self._prompt(request.model, token_ids, request.sampling(), adapter, field="messages")

    async def completion(self, request: CompletionRequest) -> Prompt:
        """Return the prompt of a completion request; raises like :meth:`chat`."""
        adapter = self._adapter(request.model)
        token_ids = await asyncio.to_thread(self._plain_ids, request.prompt)
        return self._prompt(
            request.model, token_ids, request.sampling(), adapter, field="prompt", default_tokens=DEFAULT_MAX_TOKENS
        )

    def _adapter(self, model: str) -> AdapterVersion | None:
        if model == self._plan.served_name:
            return None
        adapter = self._plan.adapter(model)
        if adapter is None:
            raise UnknownModelError(f"model {model[:80]!r} is not served; served are {self._names()}", param="model")
        return adapter

    def _names(self) -> str:
        names = [self._plan.served_name, *(adapter.name for adapter in self._plan.adapters)]
        more = len(names) - MAX_NAMES_SHOWN
        return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")

    def _render(self, request: ChatRequest, adapter: AdapterVersion | None) -> list[int]:
        with_prompt = self._templated(request, add_generation_prompt=True)
        if adapter is None or not adapter.invocation_ids:
            return with_prompt
        if activation_point(with_prompt, adapter.invocation_ids) is not None:
            return with_prompt
        return [*self._templated(request, add_generation_prompt=False), *adapter.invocation_ids]

    def _templated(self, request: ChatRequest, *, add_generation_prompt: bool) -> list[int]:
        import jinja2

        messages = [message.for_template() for message in request.messages]
        given = request.template_kwargs()
        reserved = sorted(self._reserved & set(given))
        if reserved:
            raise InvalidRequestError(f"chat_template_kwargs cannot set {reserved[0]!r}", param="chat_template_kwargs")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **given
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise InvalidRequestError(f"the chat template refuses the messages: {error}", param="messages") from None
        return self._ids(str(text), special=False)

    def _plain_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._ids(prompt, special=True)
        size = len(self._tokenizer)
        wrong = next((token for token in prompt if token >= size), None)
        if wrong is not None:
            raise InvalidRequestError(f"prompt has token id {wrong}; the vocabulary has {size}", param="prompt")
        return prompt

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _prompt(
        self,
        model: str,
        token_ids: list[int],
        sampling: SamplingSettings,
        adapter: AdapterVersion | None,
        *,
        field: str,
        default_tokens: int | None = None,
    ) -> Prompt:
        activation = None if adapter is None else 0
        if adapter is not None and adapter.invocation_ids:
            activation = activation_point(token_ids, adapter.invocation_ids)
            if activation is None:
                activation = len(token_ids)
                token_ids = [*token_ids, *adapter.invocation_ids]
        sampling = self._bounded(len(token_ids), sampling, field, default_tokens)
        return Prompt(model, token_ids, sampling, adapter, activation)

    def _bounded(
        self, prompt_tokens: int, sampling: SamplingSettings, field: str, default_tokens: int | None
    ) -> SamplingSettings:
        """Return the sampling with ``max_tokens`` set; refuse what the context has no room for."""
        limit = self._plan.settings.max_model_len
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


def _model_of(request: ChatRequest, base: str) -> str:
    """Return the served name that a chat request means; its template may name an adapter of the base model."""
    name = request.adapter_name
    if name is None or name == request.model:
        return request.model
    if request.model != base:
        raise InvalidRequestError(
            f"model is {request.model!r} and chat_template_kwargs.adapter_name is {name[:80]!r}; send one of them, or "
            f"the base model {base!r} with an adapter_name",
            param="chat_template_kwargs.adapter_name",
        )
    return name
