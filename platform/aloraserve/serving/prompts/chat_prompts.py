"""Conversations as prompts, with an adapter's invocation where it belongs.

An invocation counts only where the template or this module places it. What a client writes, anywhere, neither invokes
an adapter nor hides its invocation: the last occurrence, by which PEFT and the engine go, is the one placed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.blocks import KeySpace, activation_point
from aloraserve.errors import InvalidRequestError, InvocationError
from aloraserve.serving.prompts.chat_renderer import ChatRenderer, Conversation, PromptEnding
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.serving.prompts.instruction import LAST_MESSAGE, Asked, Instruction
from aloraserve.serving.prompts.invocations import Invocation, Invocations
from aloraserve.serving.prompts.prompt import Prompt
from aloraserve.serving.prompts.prompt_cache import Lookup, PromptCache


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation that was rendered for an adapter or the base model, and what is known of its tokens.

    Args:
        conversation: as it was rendered.
        found: what is known of the text.
        adapter: None for the base model.
        invocation: of the adapter, None if it needs none.
        asked: the values of the instruction that ends the conversation, None without one.
    """

    conversation: Conversation
    found: Lookup
    adapter: AdapterVersion | None = None
    invocation: Invocation | None = None
    asked: Asked | None = None


class ChatPrompts:
    """Renders and tokenizes conversations. May be used by any number of threads.

    Args:
        tokenizer: of the base model, with its chat template.
        encoder: of the base model.
        keyspace: what block keys belong to.
        max_tokens: longer prompts are not remembered.
    """

    def __init__(self, tokenizer: Any, encoder: Encoder, keyspace: KeySpace, *, max_tokens: int) -> None:
        self._encoder = encoder
        self._renderer = ChatRenderer(tokenizer, encoder.escaping)
        self._cache = PromptCache(encoder, keyspace, max_tokens=max_tokens)
        self._invocations = Invocations(tokenizer, encoder, self._renderer)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: dict[str, Any],
        adapter: AdapterVersion | None,
        salt: str | None,
        values: Mapping[str, str] | None = None,
        ending: PromptEnding = PromptEnding.GENERATION_PROMPT,
    ) -> RenderedChat:
        """Return a rendered conversation; this takes time by its messages alone.

        Args:
            messages: as the client sent them.
            arguments: the client's, for the template.
            adapter: None for the base model.
            salt: the tenant's.
            values: of the fields of the adapter's instruction, which is then one message more. None to find the
                instruction in the last message, and to add it if it has no fields but ``last_message``.
            ending: of the prompt.

        Raises:
            InvalidRequestError: the template refuses the messages, a field of the instruction is missing, or the
                prompt is to end where the adapter's invocation belongs.
        """
        conversation = self._renderer.conversation(messages, arguments, ending)
        invocation = None if adapter is None else self.invocation(adapter)
        if invocation is not None and ending is not PromptEnding.GENERATION_PROMPT:
            field = "continue_final_message" if ending is PromptEnding.OPEN_MESSAGE else "add_generation_prompt"
            raise InvalidRequestError(
                f"'{field}' is not accepted for an adapter with an invocation, which ends the prompt", param=field
            )
        if invocation is None:
            return RenderedChat(conversation, self._look_up(conversation, salt), adapter)
        asked = None
        if invocation.instruction is not None:
            asked = _asked(invocation.instruction, messages, values)
            at = len(conversation.messages) - 1 if asked.is_complete else None
            conversation = self._instructed(conversation, invocation, asked, at=at)
        is_open = invocation.mode is not InvocationMode.APPENDED
        found = self._look_up(conversation, salt, add_generation_prompt=is_open)
        return RenderedChat(conversation, found, adapter, invocation, asked)

    def invocation(self, adapter: AdapterVersion) -> Invocation | None:
        """Return how an adapter is invoked, None for a plain LoRA whose files name no text that invokes it.

        A LoRA that was trained with an invocation (Granite's 3.2 intrinsics, an aLoRA's twin) needs it in its prompt,
        but acts from the first token on.

        Raises:
            InvalidAdapterError: its instruction does not have its invocation.
        """
        return self._invocations.of(adapter) if adapter.invocation_ids or adapter.invocation_text else None

    def is_slow(self, chat: RenderedChat, at_once: int) -> bool:
        """Whether a chat's tokenization takes longer than that of so many characters."""
        found = chat.found
        return found.new_characters > at_once or self._encoder.escaping.is_escaped(found.text[found.start :])

    def complete(self, chat: RenderedChat) -> Prompt:
        """Return a chat's prompt.

        Raises:
            InvocationError: the adapter's invocation is not where it was placed.
        """
        ids, known = self._cache.complete(chat.found)
        adapter, invocation = chat.adapter, chat.invocation
        if adapter is None or invocation is None:
            return Prompt(ids, None if adapter is None else 0, known)
        place: int | None
        match invocation.mode:
            case InvocationMode.APPENDED:
                place, ids = len(ids), [*ids, *invocation.ids]
            case InvocationMode.GENERATION_PROMPT:
                place = self._in_generation_prompt(chat, invocation, ids)
            case InvocationMode.INSTRUCTION:
                place = self._in_instruction(chat, invocation, ids)
                if place is None and (apart := self._apart(chat, invocation)) is not None:
                    return self.complete(apart)
        if place is None:
            raise InvocationError(
                f"adapter {adapter.name!r} cannot act: its invocation {invocation.text[:80]!r} belongs in the prompt's "
                f"{invocation.mode.value.replace('_', ' ')}, but its tokens {list(invocation.ids[:16])} are "
                "not there; they are of another tokenizer or chat template than the base model has"
            )
        return Prompt(ids, place if adapter.invocation_ids else 0, known)

    def _look_up(self, conversation: Conversation, salt: str | None, *, add_generation_prompt: bool = True) -> Lookup:
        text = self._renderer.render(conversation, add_generation_prompt=add_generation_prompt)
        return self._cache.look_up(text, salt)

    def _instructed(
        self, conversation: Conversation, invocation: Invocation, asked: Asked, *, at: int | None
    ) -> Conversation:
        """Return a conversation with the instruction at that place; only its literal parts may invoke."""
        assert invocation.instruction is not None
        text = invocation.instruction.text(asked, self._encoder.escaping.escape)
        return conversation.with_message("user", text, at=at)

    def _in_generation_prompt(self, chat: RenderedChat, invocation: Invocation, ids: list[int]) -> int | None:
        place = activation_point(ids, invocation.ids)
        if place is None or place + len(invocation.ids) == len(ids):
            return place
        # The template's arguments may put something behind it.
        found = self._look_up(chat.conversation, chat.found.salt, add_generation_prompt=False)
        return place if place >= len(self._cache.complete(found)[0]) else None

    def _in_instruction(self, chat: RenderedChat, invocation: Invocation, ids: list[int]) -> int | None:
        place, width = activation_point(ids, invocation.ids), len(invocation.ids)
        character = chat.found.text.rfind(invocation.text)
        if place is None or character < 0:
            return None
        before, _ = self._cache.complete(self._cache.look_up(chat.found.text[:character], chat.found.salt))
        # A word that ends there may have other tokens by itself; another message is farther away.
        return place if abs(place - len(before)) <= width else None

    def _apart(self, chat: RenderedChat, invocation: Invocation) -> RenderedChat | None:
        """Return a chat whose invocation is tokenized apart from the text beside it, None if it was already."""
        assert chat.asked is not None
        if chat.asked.is_apart:
            return None
        asked = chat.asked._replace(is_apart=True)
        last = len(chat.conversation.messages) - 1
        conversation = self._instructed(chat.conversation, invocation, asked, at=last)
        return replace(chat, conversation=conversation, found=self._look_up(conversation, chat.found.salt), asked=asked)


def _asked(instruction: Instruction, messages: Sequence[Mapping[str, Any]], values: Mapping[str, str] | None) -> Asked:
    """Return the values of an instruction: those given, or those of the last message, or the last message itself."""
    last = messages[-1]
    text = last["content"] if isinstance(last.get("content"), str) else ""
    asked = instruction.asked_in(text) if values is None and last.get("role") == "user" else None
    return instruction.asked_with({LAST_MESSAGE: text, **(values or {})}) if asked is None else asked
