"""What a model's chat template shows of what it is given: one that leaves documents or a message out says nothing."""

from __future__ import annotations

from typing import Any

import jinja2

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.chat import ChatRequest

TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
"""What a template raises over messages or arguments that it was not made for."""
_SIGN = "Zq7Zq"
_USUAL = frozenset({"system", "user", "assistant"})
_QUESTION = {"role": "user", "content": "hello"}


class TemplateSupport:
    """Knows what a template takes, by rendering an example once for each kind. May be used by any number of threads.

    Args:
        tokenizer: with its chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_shown: dict[str, bool] = {}

    def check(self, body: ChatRequest) -> None:
        """Do nothing if the template shows a request's documents and messages.

        Raises:
            InvalidRequestError: it would leave them out; vLLM answers without them.
        """
        if body.documents and not self._shows("documents"):
            raise InvalidRequestError(
                "the model's chat template does not show documents; send their text in messages", param="documents"
            )
        for role in {message.role.partition(" ")[0] for message in body.messages} - _USUAL:
            if not self._shows(role):
                raise InvalidRequestError(
                    f"the model's chat template does not show messages of the role '{role}'", param="messages"
                )

    def _shows(self, kind: str) -> bool:
        if kind not in self._is_shown:
            self._is_shown[kind] = self._example(kind)
        return self._is_shown[kind]

    def _example(self, kind: str) -> bool:
        """Return whether the template shows a text that comes as documents or in such a role."""
        documents = [{"text": _SIGN, "title": "title", "doc_id": "1"}]
        message = {"role": "document 1" if kind == "document" else kind, "content": _SIGN, "tool_call_id": "call"}
        messages = [_QUESTION] if kind == "documents" else [_QUESTION, message]
        if kind in ("developer", "document"):
            messages.reverse()
        more = {"documents": documents} if kind == "documents" else {}
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
        except TEMPLATE_ERRORS:
            # What it says of the client's own messages says more.
            return True
        return _SIGN in str(text)
