"""From a validated body to a request: rendered, tokenized and invoked once, for every edge alike.

It is here and not in a gateway because each edge needs it, and because the token ids that it makes are what keys,
routing and engines agree on. The tokenizer is passed in: nothing here loads a model's files.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aloraserve.adapters import AdapterVersion
from aloraserve.blocks import AdapterEffect, BlockKey, KeySpace, activation_point
from aloraserve.errors import InvalidRequestError
from aloraserve.routing.base import Call
from aloraserve.serving.conversation import Resolve, conversation_key
from aloraserve.serving.prompts.chat_prompts import ChatPrompts, RenderedChat
from aloraserve.serving.prompts.chat_renderer import PromptEnding
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.serving.prompts.prompt import Prompt
from aloraserve.serving.prompts.public_keys import PublicPrefixKeys
from aloraserve.serving.prompts.template_support import TemplateSupport
from aloraserve.serving.prompts.text_cache import TextCache, TokenizedText
from aloraserve.serving.prompts.tool_uses import NO_PARSER, ToolUses
from aloraserve.serving.prompts.truncation import truncated
from aloraserve.serving.request import Echo, GenerationRequest, Origin
from aloraserve.serving.sampling_rules import SamplingRules, adapter_sampling
from aloraserve.serving.structures import check_structure
from aloraserve.serving.tools import AUTO
from aloraserve.tenants.shared_prefix import PublicBlocks, none_public
from aloraserve.wire.chat import ChatRequest
from aloraserve.wire.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from aloraserve.wire.sampling import NEUTRAL, SamplingDefaults

RENDERED_AT_ONCE = 65_536
"""Characters of a conversation that is rendered on the event loop: 0.3 ms of its time."""
TOKENIZED_AT_ONCE = 4_096
"""Characters, or token ids, that are new in a prompt and tokenized on the event loop: 1 ms of its time. A thread costs
0.1 ms of CPU time, and waits for a core."""
MESSAGE_CHARACTERS = 256
"""What rendering a message costs beside its text, in characters."""
_NO_LIMIT = 1 << 40
_NO_KEYS: Sequence[BlockKey] = ()


class PromptBuilder:
    """Renders and tokenizes; what is long is done in a thread, what is short costs less than a thread does.

    Args:
        tokenizer: of the base model, with its chat template.
        keyspace: what block keys belong to.
        base_model: served name of the base model.
        max_model_len: tokens of a prompt and its answer together.
        public_blocks: knows which blocks all tenants share.
        resolve: returns the adapter version that a call goes to now, or raises
            :class:`~aloraserve.errors.UnknownModelError`.
        embeddings: tokens that the model has an embedding of; as many as the tokenizer has if that is not known.
        defaults: of sampling fields that a request leaves out.
        tool_parser: the name of the format in which the base model writes calls of functions, "auto" or "none".
    """

    def __init__(
        self,
        tokenizer: Any,
        keyspace: KeySpace,
        *,
        base_model: str,
        max_model_len: int,
        resolve: Resolve,
        public_blocks: PublicBlocks = none_public,
        embeddings: int | None = None,
        defaults: SamplingDefaults = NEUTRAL,
        tool_parser: str = AUTO,
    ) -> None:
        self._tokenizer = tokenizer
        self._keyspace = keyspace
        self._base_model = base_model
        self._max_model_len = max_model_len
        self._resolve = resolve
        self._public_blocks = public_blocks
        self._public_keys = PublicPrefixKeys(keyspace.block_tokens)
        self._encoder = Encoder(tokenizer)
        self._has_strange_tokens = embeddings is not None and embeddings < self._encoder.size
        self._rules = SamplingRules(max_model_len, embeddings or self._encoder.size, defaults)
        self._chats = ChatPrompts(tokenizer, self._encoder, keyspace, max_tokens=max_model_len)
        self._texts = TextCache(partial(self._encoder.ids, special=True), keyspace, max_tokens=max_model_len)
        self._tokenizing: dict[tuple[str | None, str], asyncio.Task[TokenizedText]] = {}
        self._support = TemplateSupport(tokenizer)
        self._tool_uses = ToolUses(tokenizer, tool_parser)

    @property
    def tool_format(self) -> str:
        """The format in which calls of functions are read where a model may choose; "none" if it is not known."""
        return self._tool_uses.form.name if self._tool_uses.form else NO_PARSER

    async def chat(
        self,
        body: ChatRequest,
        origin: Origin,
        *,
        values: Mapping[str, str] | None = None,
        adapter: AdapterVersion | None = None,
    ) -> GenerationRequest:
        """Return the request of a chat body.

        An aLoRA's invocation is placed as its :class:`~aloraserve.adapters.InvocationMode` says, whatever the messages
        hold.

        Args:
            body: of the request.
            origin: where it comes from.
            values: of the fields of the adapter's instruction, which then follows the messages. None if the last
                message is the instruction, or if it has no fields.
            adapter: the version that the body's model means, if :meth:`version` has said so already.

        Raises:
            UnknownModelError: the model is not served.
            InvalidRequestError: the template refuses the messages or would leave some out, the prompt is too long, or
                the answer cannot have the form that is asked for.
            InvocationError: the adapter's invocation is not where it was placed.
        """
        adapter = adapter or await self.version(_model_of(body, self._base_model), body, origin)
        self._support.check(body)
        await check_structure(body)
        if _characters(body) > RENDERED_AT_ONCE:
            return await asyncio.to_thread(self._chat, body, origin, adapter, values)
        rendered = self._render(body, origin, adapter, values)
        if self._chats.is_slow(rendered, TOKENIZED_AT_ONCE):
            return await asyncio.to_thread(self._completed, rendered, body, origin)
        return self._completed(rendered, body, origin)

    async def completion(self, body: CompletionRequest, origin: Origin) -> GenerationRequest:
        """Return the request of a completion body; raises like :meth:`chat`."""
        adapter = await self.version(body.model, body, origin)
        await check_structure(body)
        prompt = body.one_prompt
        text = await self._tokenized(prompt, origin.caller.cache_salt) if isinstance(prompt, str) else None
        is_hashed = text is not None and (adapter is None or bool(adapter.invocation_ids))
        if len(prompt) > TOKENIZED_AT_ONCE and not is_hashed:
            return await asyncio.to_thread(self._completion, body, origin, adapter, text)
        return self._completion(body, origin, adapter, text)

    def continued(
        self,
        request: GenerationRequest,
        token_ids: list[int],
        adapter: AdapterVersion | None,
        *,
        number: int,
        max_tokens: int,
    ) -> GenerationRequest:
        """Return the request that goes on with an answer.

        Args:
            request: of the base model, that began the answer.
            token_ids: its prompt and the answer so far; an aLoRA's invocation is in it.
            adapter: who goes on, None for the base model.
            number: of the request within the answer.
            max_tokens: that are left to generate.
        """
        prompt = Prompt(list(token_ids), _activation(token_ids, adapter), request.keys)
        public = min(request.public_blocks, self._base_blocks(prompt))
        if public < request.public_blocks:
            prompt = replace(prompt, known=())
        origin = request.origin.numbered(number)
        sampling = replace(request.sampling, max_tokens=max_tokens, min_tokens=0, prompt_logprobs=None)
        call = self._call(origin, prompt, adapter, public)
        return replace(
            request,
            origin=origin,
            token_ids=prompt.token_ids,
            sampling=sampling if adapter is None else adapter_sampling(adapter, sampling),
            call=call,
            adapter=adapter,
            activation=prompt.activation,
            keys=call.keys,
            public_blocks=public,
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def unbounded(self) -> PromptBuilder:
        """Return a builder with the same caches that also takes prompts for which the context has no room."""
        other = copy.copy(self)
        other._max_model_len = _NO_LIMIT
        other._rules = self._rules.within(_NO_LIMIT)
        return other

    def plain_ids(self, text: str) -> list[int]:
        """Return a text's tokens without those that the tokenizer adds to a whole text."""
        return self._encoder.ids(text)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Return each token as the tokenizer's vocabulary has it."""
        return list(self._tokenizer.convert_ids_to_tokens(list(token_ids)))

    def text_of(self, token_ids: list[int]) -> str:
        """Return the text of tokens, with special ones.

        Raises:
            InvalidRequestError: one is not in the vocabulary.
        """
        self._rules.check_tokens(token_ids, "tokens")
        return str(self._tokenizer.decode(token_ids)) if token_ids else ""

    async def _tokenized(self, text: str, salt: str | None) -> TokenizedText:
        """Return a completion's text with its ids; calls that come with the same text at once wait for one thread."""
        found = self._texts.find(text, salt)
        if found is not None:
            return found
        if len(text) <= TOKENIZED_AT_ONCE:
            return self._texts.tokenize(text, salt)
        place = (salt, text)
        task = self._tokenizing.get(place)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._texts.tokenize, text, salt), name="tokenize")
            self._tokenizing[place] = task
            task.add_done_callback(lambda _: self._tokenizing.pop(place))
        # The client that came first may leave; the others still want the ids.
        return await asyncio.shield(task)

    async def version(self, model: str, body: ChatRequest | CompletionRequest, origin: Origin) -> AdapterVersion | None:
        """Return the adapter version that a model's name means in a conversation, None for the base model.

        Raises:
            UnknownModelError: the model is not served.
        """
        if model == self._base_model:
            return None
        return await self._resolve(model, tenant=origin.caller.tenant, key=conversation_key(body, origin))

    def _chat(
        self, body: ChatRequest, origin: Origin, adapter: AdapterVersion | None, values: Mapping[str, str] | None
    ) -> GenerationRequest:
        return self._completed(self._render(body, origin, adapter, values), body, origin)

    def _render(
        self, body: ChatRequest, origin: Origin, adapter: AdapterVersion | None, values: Mapping[str, str] | None
    ) -> RenderedChat:
        messages = [message.for_template() for message in body.messages]
        salt = origin.caller.cache_salt
        return self._chats.render(messages, body.template_kwargs(), adapter, salt, values, _ending(body))

    def _completed(self, rendered: RenderedChat, body: ChatRequest, origin: Origin) -> GenerationRequest:
        request = self._request(body, origin, self._chats.complete(rendered), rendered.adapter, field="messages")
        return self._tool_uses.added_to(request, body)

    def _completion(
        self, body: CompletionRequest, origin: Origin, adapter: AdapterVersion | None, text: TokenizedText | None
    ) -> GenerationRequest:
        prompt = self._completion_prompt(body.one_prompt, adapter, text)
        return self._request(body, origin, prompt, adapter, field="prompt", default_tokens=DEFAULT_MAX_TOKENS)

    def _completion_prompt(
        self, prompt: str | list[int], adapter: AdapterVersion | None, text: TokenizedText | None
    ) -> Prompt:
        if text is None:
            assert not isinstance(prompt, str)
            self._rules.check_tokens(prompt, "prompt")
            token_ids, known = prompt, _NO_KEYS
        else:
            token_ids, known = list(text.ids), text.keys
        activation = _activation(token_ids, adapter)
        if adapter is None or activation is not None:
            return Prompt(token_ids, activation, known, prompt if isinstance(prompt, str) else None)
        return Prompt([*token_ids, *adapter.invocation_ids], len(token_ids), known)

    def _request(
        self,
        body: ChatRequest | CompletionRequest,
        origin: Origin,
        prompt: Prompt,
        adapter: AdapterVersion | None,
        *,
        field: str,
        default_tokens: int | None = None,
    ) -> GenerationRequest:
        prompt = truncated(prompt, body, self._max_model_len)
        if self._has_strange_tokens:
            self._rules.check_tokens(prompt.token_ids, field)
        sampling = self._rules.settings(body, len(prompt.token_ids), field, default_tokens)
        if self._has_strange_tokens:
            self._check_bad_words(sampling.bad_words)
        public = self._public(origin, prompt)
        if public:
            prompt = replace(prompt, known=self._known_behind(origin, prompt, public))
        call, extras = self._call(origin, prompt, adapter, public), body.extras()
        if public:
            self._remember_behind(origin, prompt, public, call)
        return GenerationRequest(
            origin if body.priority is None else replace(origin, priority=body.priority),
            body.model,
            prompt.token_ids,
            sampling,
            call if sampling.reads_cache else replace(call, keys=()),
            adapter,
            prompt.activation,
            is_streamed=bool(body.stream),
            shows_tokens=extras.token_ids,
            extras=extras,
            echo=self._echo(body, prompt) if isinstance(body, CompletionRequest) and body.echo else None,
            keys=call.keys,
            public_blocks=public,
        )

    def _echo(self, body: CompletionRequest, prompt: Prompt) -> Echo:
        """Return a prompt's echo; as in vLLM it has no text beside token ids."""
        text = "" if body.return_token_ids else prompt.text
        return Echo(
            self._decoded(prompt.token_ids) if text is None else text,
            self._decoded(prompt.token_ids[:1]),
            body.shows_only_prompt,
        )

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _check_bad_words(self, words: Sequence[str]) -> None:
        for word in words:
            self._rules.check_tokens(self._encoder.ids(f" {word.lstrip()}"), "bad_words")
            self._rules.check_tokens(self._encoder.ids(word.lstrip()), "bad_words")

    def _public(self, origin: Origin, prompt: Prompt) -> int:
        """Return how many of a prompt's first blocks are everybody's; all are of who has no salt."""
        if origin.caller.cache_salt is None:
            return 0
        return self._public_blocks(prompt.token_ids, self._base_blocks(prompt))

    def _known_behind(self, origin: Origin, prompt: Prompt, public: int) -> Sequence[BlockKey]:
        """Return the keys that are known of a prompt that begins with a shared prefix."""
        return self._public_keys.find(origin.caller.cache_salt or "", public, prompt.token_ids)

    def _remember_behind(self, origin: Origin, prompt: Prompt, public: int, call: Call) -> None:
        own = call.keys[: self._base_blocks(prompt)]
        if len(own) > len(prompt.known):
            self._public_keys.remember(origin.caller.cache_salt or "", public, prompt.token_ids, own)

    def _base_blocks(self, prompt: Prompt) -> int:
        """Return how many of a prompt's blocks are the base model's."""
        tokens = len(prompt.token_ids) if prompt.activation is None else max(prompt.activation, 0)
        return tokens // self._keyspace.block_tokens

    def _call(self, origin: Origin, prompt: Prompt, adapter: AdapterVersion | None, public_blocks: int) -> Call:
        effect = None
        if adapter is not None and prompt.activation is not None:
            effect = AdapterEffect(adapter.name, adapter.digest, prompt.activation)
        salt = origin.caller.cache_salt
        return Call(
            prompt_tokens=len(prompt.token_ids),
            block_tokens=self._keyspace.block_tokens,
            keys=self._keyspace.keys(
                prompt.token_ids, cache_salt=salt, adapter=effect, known=prompt.known, public_blocks=public_blocks
            ),
            adapter=adapter.name if adapter else None,
            session=origin.session,
            base_blocks=None if effect is None else max(effect.activation, 0) // self._keyspace.block_tokens,
            version=adapter.key if adapter else None,
        )


def _activation(token_ids: list[int], adapter: AdapterVersion | None) -> int | None:
    """Return where an adapter begins to change a prompt, None where it does not."""
    if adapter is None:
        return None
    return activation_point(token_ids, adapter.invocation_ids) if adapter.invocation_ids else 0


def _ending(body: ChatRequest) -> PromptEnding:
    if body.continue_final_message:
        return PromptEnding.OPEN_MESSAGE
    return PromptEnding.GENERATION_PROMPT if body.has_generation_prompt else PromptEnding.LAST_MESSAGE


def _characters(body: ChatRequest) -> int:
    return MESSAGE_CHARACTERS * len(body.messages) + body.characters


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
