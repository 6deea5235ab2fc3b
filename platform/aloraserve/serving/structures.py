"""The forms of answers, compiled before any engine meets them: what cannot be compiled is the client's error.

Engines hold answers to their form with llguidance. So does this, byte by byte, which takes milliseconds for what
:mod:`aloraserve.wire.structured` lets through, and nothing of it reaches an engine that would refuse it there.
"""

from __future__ import annotations

import asyncio
import functools
import json

from llguidance import LLMatcher, LLTokenizer, grammar_from

from aloraserve.errors import InvalidRequestError
from aloraserve.wire.sampling_fields import SamplingFields
from aloraserve.wire.structured import StructuredOutput

COMPILED_AT_ONCE = 1_024
"""Characters of a form that is compiled on the event loop: a millisecond of its time."""
REMEMBERED = 256
MAX_FAULT_CHARACTERS = 200
_DEAD_END = "NoExtensionBias"
"""What llguidance calls a place where no token may follow, such as the begin of ``start: start``."""
_OF_NO_TEXT = "no text has this form"


def grammar_of(structured: StructuredOutput, *, is_compact: bool = False) -> str:
    """Return llguidance's grammar of a form, as vLLM makes it (``v1/structured_output/backend_guidance.py``).

    Args:
        structured: the form.
        is_compact: whether JSON may have no white space between its parts.

    Raises:
        ValueError: there is none.
    """
    if structured.kind == "json":
        return LLMatcher.grammar_from_json_schema(structured.text, defaults={"whitespace_flexible": not is_compact})
    if structured.kind == "choice":
        return grammar_from("choice", json.dumps(structured.choices))
    return grammar_from(structured.kind, structured.text)


async def check_structure(body: SamplingFields) -> None:
    """Do nothing if an answer can have the form that a request asks for.

    Raises:
        InvalidRequestError: its schema, expression or grammar cannot be compiled.
    """
    structured = body.structured()
    if structured is None:
        return
    if len(structured.text) + sum(map(len, structured.choices)) > COMPILED_AT_ONCE:
        fault = await asyncio.to_thread(compile_fault, structured)
    else:
        fault = compile_fault(structured)
    if fault:
        raise InvalidRequestError(
            f"the {structured.kind} of '{body.structured_field}' cannot be compiled: {fault}",
            param=body.structured_field,
        )


@functools.lru_cache(REMEMBERED)
def compile_fault(structured: StructuredOutput) -> str:
    """Return why a form cannot be compiled, an empty string if it can be."""
    try:
        grammar = grammar_of(structured)
    except ValueError as error:
        return fault_summary(str(error))
    if fault := LLMatcher.validate_grammar(grammar, None):
        return fault_summary(fault)
    matcher = LLMatcher(_bytes(), grammar, log_level=0)
    # Whether any text begins like that shows only now.
    matcher.compute_bitmask()
    return fault_summary(matcher.get_error()) if matcher.is_error() else ""


@functools.cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def fault_summary(fault: str) -> str:
    """Return the line of a compiler's message that says what is wrong."""
    lines = [line.strip() for line in fault.splitlines() if line.strip()]
    cause = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "".join(lines[:1]))
    return _OF_NO_TEXT if cause == _DEAD_END else cause[:MAX_FAULT_CHARACTERS]
