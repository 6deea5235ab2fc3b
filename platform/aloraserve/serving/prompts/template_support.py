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
_CALL = {"id": "call12345", "type": "function", "function": {"name": "tool", "arguments": {}}}
_ANSWERED = {"tool_call_id": "call12345", "name": "tool"}
_TOOL = {"name": _SIGN, "description": "tool", "parameters": {"type": "object", "properties": {}}}
_ARGUMENTS: dict[str, Any] = {
    "documents": [{"text": _SIGN, "title": "title", "doc_id": "1"}],
    "tools": [{"type": "function", "function": _TOOL}],
}


class TemplateSupport:
    """Knows what a template takes, by rendering an example once for each kind. May be used by any number of threads.

    Args:
        tokenizer: with its chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_shown: dict[str, bool] = {}

    def check(self, body: ChatRequest) -> None:
        """Do nothing if the template shows a request's documents, tools and messages.

        Raises:
            InvalidRequestError: it would leave them out; vLLM answers without them.
        """
        if body.documents and not self._shows("documents"):
            raise InvalidRequestError(
                "the model's chat template does not show documents; send their text in messages", param="documents"
            )
        if body.tools and not self._shows("tools"):
            raise InvalidRequestError(
                "the model's chat template does not show tools; it was not trained to call any", param="tools"
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
        """Return whether the template shows a text that comes as documents, as a tool or in such a role."""
        messages, more = _conversation(kind), {kind: _ARGUMENTS[kind]} if kind in _ARGUMENTS else {}
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **more)
        except TEMPLATE_ERRORS:
            # What it says of the client's own messages says more.
            return True
        return _SIGN in str(text)


def _conversation(kind: str) -> list[dict[str, Any]]:
    if kind in _ARGUMENTS:
        return [_QUESTION]
    message: dict[str, Any] = {"role": "document 1" if kind == "document" else kind, "content": _SIGN}
    if kind in ("developer", "document"):
        return [message, _QUESTION]
    if kind == "tool":
        return [_QUESTION, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, message | _ANSWERED]
    return [_QUESTION, message | {"name": "tool"}]
