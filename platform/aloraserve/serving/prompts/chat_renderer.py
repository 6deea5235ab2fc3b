"""Conversations through a model's chat template, with all client text escaped."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.escaping import Escaping
from aloraserve.serving.prompts.template_support import TEMPLATE_ERRORS

_SPECIAL_TOKENS = (f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_RESERVED = frozenset({"messages", "return_dict", "additional_special_tokens", *_SPECIAL_TOKENS})


class PromptEnding(enum.Enum):
    """What a prompt ends with."""

    GENERATION_PROMPT = enum.auto()
    """What the template writes for an answer to begin."""
    LAST_MESSAGE = enum.auto()
    OPEN_MESSAGE = enum.auto()
    """The last message without what ends it: the model goes on with it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template gets, client text escaped.

    Args:
        messages: with role and content.
        arguments: of the client's for the template.
        ending: of the prompt.
    """

    messages: Sequence[Mapping[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)
    ending: PromptEnding = PromptEnding.GENERATION_PROMPT

    def with_message(self, role: str, content: str, *, at: int | None = None) -> Conversation:
        """Return the conversation with one message more, or with another one at that place.

        Args:
            role: of the message.
            content: escaped.
            at: index of the message that it replaces, None for one more at the end.
        """
        messages = list(self.messages)
        messages[len(messages) if at is None else at :] = [{"role": role, "content": content}]
        return replace(self, messages=messages)


class ChatRenderer:
    """Renders conversations. May be used by any number of threads.

    Args:
        tokenizer: with its chat template.
        escaping: of client text.
    """

    def __init__(self, tokenizer: Any, escaping: Escaping) -> None:
        self._tokenizer = tokenizer
        self._escaping = escaping
        # The tokenizer's own arguments: "chat_template" among them would run a program of the client's. A request has
        # fields for two of them.
        own = set(inspect.signature(tokenizer.apply_chat_template).parameters)
        self._reserved = (_RESERVED | own) - {"documents", "tools"}

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: dict[str, Any],
        ending: PromptEnding = PromptEnding.GENERATION_PROMPT,
    ) -> Conversation:
        """Return a client's conversation.

        Args:
            messages: as they came.
            arguments: for the template, as they came.
            ending: of the prompt.

        Raises:
            InvalidRequestError: an argument is not the client's to set.
        """
        reserved = sorted(self._reserved & set(arguments))
        if reserved:
            raise InvalidRequestError(f"chat_template_kwargs cannot set {reserved[0]!r}", param="chat_template_kwargs")
        return Conversation(self._escaping.escape_messages(messages), self._escaping.escape(arguments), ending)

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> str:
        """Return the rendered text, in which client text is still escaped.

        Args:
            conversation: to render.
            add_generation_prompt: where the conversation's prompt ends with it; False leaves it out.

        Raises:
            InvalidRequestError: the template refuses the messages.
        """
        is_open = conversation.ending is PromptEnding.OPEN_MESSAGE
        arguments = conversation.arguments | ({"continue_final_message": True} if is_open else {})
        is_answered = add_generation_prompt and conversation.ending is PromptEnding.GENERATION_PROMPT
        try:
            text = self._tokenizer.apply_chat_template(
                conversation.messages, tokenize=False, add_generation_prompt=is_answered, **arguments
            )
        except TEMPLATE_ERRORS as error:
            # Of a message that it cannot go on with transformers says so with the whole prompt.
            cause = "it does not show the last message as it is" if is_open else self._escaping.restore(str(error))
            raise InvalidRequestError(f"the chat template refuses the messages: {cause}", param="messages") from None
        return str(text)
