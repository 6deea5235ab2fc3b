"""From what a chat says of tools to how its answer's calls are read, for one base model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.tools import ToolFormat, ToolUse, known_format
from aloraserve.wire.chat import ChatRequest

NO_PARSER = "none"


class ToolUses:
    """Knows how a model writes calls of functions.

    Args:
        tokenizer: of the base model, with its chat template.
        parser: a format's name; "auto" for the one of the chat template, "none" for no format.

    Attributes:
        form: of calls that the model writes of its own accord, None if it is not known.
    """

    def __init__(self, tokenizer: Any, parser: str) -> None:
        self.form: ToolFormat | None = None if parser == NO_PARSER else known_format(parser, _template(tokenizer))
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special}
        self._has_special_markers = self.form is not None and not special.isdisjoint(
            (*self.form.openings, self.form.closing)
        )

    def added_to(self, request: GenerationRequest, body: ChatRequest) -> GenerationRequest:
        """Return a request whose answer's calls are read as its body says.

        Raises:
            InvalidRequestError: the model may call functions of its own accord, in a way that is not known.
        """
        if not body.may_call_tools:
            return request
        names = frozenset(tool.function.name for tool in body.tools or ())
        is_parallel = body.parallel_tool_calls is not False
        if body.is_forced_to_call:
            return replace(request, tool_use=ToolUse(names, None, body.named_function, is_parallel))
        if self.form is None:
            raise InvalidRequestError(
                "it is not known how the model writes calls of functions; send as 'tool_choice' a function, "
                "'required' or 'none', or have the operator set 'tool_parser'",
                param="tool_choice",
            )
        # Engines leave special tokens out of the text, and the markers with them.
        sampling = request.sampling
        if self._has_special_markers:
            sampling = replace(sampling, skip_special_tokens=False)
        return replace(request, sampling=sampling, tool_use=ToolUse(names, self.form, None, is_parallel))


def _template(tokenizer: Any) -> str:
    """Return the source of a tokenizer's chat templates; some have one for tools beside the usual one."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else "\n".join(map(str, template.values()))
