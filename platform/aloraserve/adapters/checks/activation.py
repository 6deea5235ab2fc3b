"""The proof that an adapter would act, as a report has it.

:mod:`aloraserve.serving.prompts.activation_proof` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aloraserve.adapters.invocation import InvocationMode
from aloraserve.adapters.problems import Problem


class ShownToken(NamedTuple):
    """A token of an example.

    Args:
        id: of the token.
        text: of it alone; part of a character is shown as the replacement character.
    """

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class ActivationProof:
    """An example conversation as an adapter gets it.

    Args:
        mode: where its invocation stands; None for a plain LoRA, and if that could not be found out.
        invocation_text: text of the invocation.
        invocation_ids: tokens of the invocation.
        before: the last tokens before the activation point, which are the base model's.
        after: the first tokens from there on, which are the adapter's.
        prompt_tokens: how many the example has.
        activation: index of the first token that the adapter changes; None if it would not act.
        problems: why it would not act, or not where it should; empty if it is proven.
    """

    mode: InvocationMode | None
    invocation_text: str
    invocation_ids: tuple[int, ...]
    before: tuple[ShownToken, ...] = ()
    after: tuple[ShownToken, ...] = ()
    prompt_tokens: int = 0
    activation: int | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether the adapter acts on the example, and where it should."""
        return not self.problems

    @property
    def marked(self) -> str:
        """The example on one line: text, the activation point as ``>>>``, and each token behind it in brackets."""
        before = "".join(token.text for token in self.before)
        return ascii_line(before) + " >>> " + "".join(f"[{ascii_line(token.text)}]" for token in self.after)


def ascii_line(text: str) -> str:
    """Return a text on one line, without control characters."""
    return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
