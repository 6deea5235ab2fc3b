"""What an intrinsic is: an adapter's question, the form of its answer, and how to generate that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Documents = Literal["template", "string", "json", "roles"]
"""How documents reach the model: through the chat template, or as messages before the others."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """Any text: its value is the text."""


@dataclass(frozen=True, slots=True)
class ChoiceForm:
    """One of a few texts, with the probability of each.

    Digits and yes or no are choices that also have a number: an uncertainty of 7 is the probability 0.75.

    Args:
        choices: that the model may answer, in order.
        numbers: what each of them stands for, from 0 to 1; empty if they stand for nothing.
        kind: what the value is: the choice itself, a whole number, or a truth value (the first choice is true).
    """

    choices: tuple[str, ...]
    numbers: tuple[float, ...] = ()
    kind: Literal["choice", "digit", "yes_no"] = "choice"


@dataclass(frozen=True, slots=True)
class RegexForm:
    """A text that a regular expression describes; the engine keeps to it, nobody else evaluates it.

    Args:
        pattern: of the whole text.
    """

    pattern: str


@dataclass(frozen=True, slots=True)
class JsonForm:
    """JSON, whose transformations are those of granite-common's ``io.yaml``.

    Args:
        schema: JSON schema of the answer, as JSON text; empty if any JSON will do.
        config: the whole ``io.yaml``, as JSON text; empty without transformations.
        has_likelihood: whether a transformation makes a probability of log-probabilities.
    """

    schema: str
    config: str = ""
    has_likelihood: bool = False


OutputForm = TextForm | ChoiceForm | RegexForm | JsonForm


@dataclass(frozen=True, slots=True)
class IntrinsicParameters:
    """How to generate; what is None is left to the form or to the platform's default.

    Args:
        max_tokens: of the answer.
        temperature: 0 is greedy.
        top_p: nucleus mass.
        seed: of the sampling.
        stop: strings that end the answer.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardRule:
    """When an intrinsic that guards a chat refuses it.

    Args:
        threshold: a probability.
        refuses: above or below the threshold; at it in both cases.
    """

    threshold: float = 0.5
    refuses: Literal["above", "below"] = "above"

    def is_refusal(self, probability: float) -> bool:
        """Return whether a probability refuses."""
        return probability >= self.threshold if self.refuses == "above" else probability <= self.threshold


@dataclass(frozen=True, slots=True)
class IntrinsicSpec:
    """One intrinsic, as its adapter's files describe it. Immutable and hashable.

    Args:
        form: of the answer.
        instruction: template of a user message that follows the conversation, with ``{fields}``; None without.
        fields: names of the template's fields, in order; ``last_message`` is filled in.
        parameters: of the generation.
        documents: how documents reach the model.
        sentences: where sentences are numbered (``last_message``, ``documents``), and by which tag.
        guard: when it refuses.
        uses_logprob_text: whether the tokens of the log-probabilities are the answer (``logprobs_workaround``).
    """

    form: OutputForm = TextForm()
    instruction: str | None = None
    fields: tuple[str, ...] = ()
    parameters: IntrinsicParameters = IntrinsicParameters()
    documents: Documents = "template"
    sentences: tuple[tuple[str, str], ...] = ()
    guard: GuardRule = GuardRule()
    uses_logprob_text: bool = False

    @property
    def needs_logprobs(self) -> bool:
        """Whether the answer's log-probabilities decide the value."""
        form = self.form
        return isinstance(form, ChoiceForm) or (
            isinstance(form, JsonForm) and (form.has_likelihood or self.uses_logprob_text)
        )

    @property
    def gives_probability(self) -> bool:
        """Whether the result has a probability, which a guard needs."""
        form = self.form
        return (
            bool(form.numbers) if isinstance(form, ChoiceForm) else isinstance(form, JsonForm) and form.has_likelihood
        )
