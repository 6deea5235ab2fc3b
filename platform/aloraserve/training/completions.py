"""A check of answers that are to be learned: the platform has to let the adapter give them."""

from __future__ import annotations

import functools
import json

from llguidance import LLMatcher, LLTokenizer
from msgspec import Raw

from aloraserve.adapters.intrinsics import ChoiceForm, IntrinsicSpec, JsonForm
from aloraserve.adapters.problems import shown
from aloraserve.serving.intrinsics.question import structured_of
from aloraserve.serving.structures import grammar_of
from aloraserve.training.row_forms import RowError
from aloraserve.wire.structured import structured_output


class CompletionCheck:
    """Checks completions against an intrinsic's form, by the very grammar that engines hold answers to.

    Args:
        spec: of the intrinsic, None for an adapter that answers with any text.
    """

    def __init__(self, spec: IntrinsicSpec | None) -> None:
        self._form = None if spec is None else spec.form
        structured = None if spec is None else structured_output(structured_of(spec), Raw())
        self._matcher = None if structured is None else LLMatcher(_bytes(), grammar_of(structured), log_level=0)

    def check(self, completion: str) -> None:
        """Do nothing if an engine could generate a completion and the platform read it.

        Raises:
            RowError: neither.
        """
        form = self._form
        if isinstance(form, ChoiceForm):
            if completion not in form.choices:
                raise RowError(f"has the completion {shown(completion)}", _enumerated(form.choices))
        elif isinstance(form, JsonForm) and not _is_json(completion):
            raise RowError(f"has the completion {shown(completion)}", "JSON: a text stands in quotation marks")
        elif self._matcher is not None and not self._matches(self._matcher, completion.encode()):
            raise RowError(f"has the completion {shown(completion)}", "what the intrinsic's output describes")

    def _matches(self, matcher: LLMatcher, text: bytes) -> bool:
        matcher.reset()
        return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()


def _enumerated(choices: tuple[str, ...]) -> str:
    names = ", ".join(map(repr, choices[:10]))
    return names if len(choices) <= 10 else f"{names} and {len(choices) - 10} more"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@functools.cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")
