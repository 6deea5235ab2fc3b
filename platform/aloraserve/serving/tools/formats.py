"""How model families write calls of functions, by the names that vLLM gives its parsers (``vllm/tool_parsers``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Calls as JSON behind a marker.

    Args:
        name: of the format.
        openings: the markers before calls.
        closing: the marker behind a call, if there is one.
        is_bare: whether an answer may also begin with a call without a marker, which then has to name a tool.
    """

    name: str
    openings: tuple[str, ...]
    closing: str = ""
    is_bare: bool = False


AUTO = "auto"
_TAGGED = ("<tool_call>",)
FORMATS = {
    known.name: known
    for known in (
        ToolFormat("hermes", _TAGGED, "</tool_call>"),
        ToolFormat("granite4", _TAGGED, "</tool_call>"),
        ToolFormat("granite", ("<|tool_call|>", *_TAGGED)),
        ToolFormat("llama3_json", ("<|python_tag|>",), is_bare=True),
        ToolFormat("mistral", ("[TOOL_CALLS]",)),
    )
}
_SIGNS = (
    # Calls in XML are not read.
    (("<function=", "<arg_key>", "<parameter="), ""),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>",), "hermes"),
    (("<|python_tag|>", "Environment: ipython", '"parameters": dictionary of argument name'), "llama3_json"),
)
"""What stands in the chat templates of a family, and its format; the first that is found counts."""


def known_format(name: str, template: str) -> ToolFormat | None:
    """Return a format; that of a chat template for :data:`AUTO`, None if it is not one of those known."""
    return _format_of(template) if name == AUTO else FORMATS[name]


def _format_of(template: str) -> ToolFormat | None:
    for signs, name in _SIGNS:
        if any(sign in template for sign in signs):
            return FORMATS.get(name)
    return None
