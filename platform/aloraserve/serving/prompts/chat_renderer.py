"""Conversations through a model's chat template, with all client text escaped."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.escaping import Escaping
from aloraserve.serving.prompts.template_support import TEMPLATE_ERRORS

_SPECIAL_TOKENS = (f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_RESERVED = frozenset({"messages", "tools", "return_dict", "additional_special_tokens", *_SPECIAL_TOKENS})


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template gets, client text escaped.

    Args:
        messages: with role and content.
        arguments: of the client's for the template.
    """

    messages: Sequence[Mapping[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)

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
        # The tokenizer's own arguments: "chat_template" among them would run a program of the client's. Documents are
        # the one that a request has a field for.
        self._reserved = (_RESERVED | set(inspect.signature(tokenizer.apply_chat_template).parameters)) - {"documents"}

    def conversation(self, messages: Sequence[Mapping[str, Any]], arguments: dict[str, Any]) -> Conversation:
        """Return a client's conversation.

        Args:
            messages: as they came.
            arguments: for the template, as they came.

        Raises:
            InvalidRequestError: an argument is not the client's to set.
        """
        reserved = sorted(self._reserved & set(arguments))
        if reserved:
            raise InvalidRequestError(f"chat_template_kwargs cannot set {reserved[0]!r}", param="chat_template_kwargs")
        return Conversation(self._escaping.escape_messages(messages), self._escaping.escape(arguments))

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> str:
        """Return the rendered text, in which client text is still escaped.

        Raises:
            InvalidRequestError: the template refuses the messages.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                conversation.messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **conversation.arguments,
            )
        except TEMPLATE_ERRORS as error:
            cause = self._escaping.restore(str(error))
            raise InvalidRequestError(f"the chat template refuses the messages: {cause}", param="messages") from None
        return str(text)
