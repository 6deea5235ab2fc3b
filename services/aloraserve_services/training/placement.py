"""The place of an invocation in the prompts that are trained on, and what its owner should know about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aloraserve.adapters import AdapterVersion, InvocationMode
from aloraserve.adapters.checks.activation import ActivationProof
from aloraserve.adapters.problems import shown
from aloraserve.blocks import activation_point
from aloraserve.errors import TrainingError
from aloraserve.serving.prompts.activation_proof import ActivationProver
from aloraserve.serving.prompts.encoder import Encoder
from aloraserve.training import ProblemList, TrainingSpec
from aloraserve_services.training.base_model import BaseTokens

_PROBES = ("x", ".", " ", "\n")
"""Texts that may stand before an invocation."""


def prove_placement(spec: TrainingSpec, version: AdapterVersion, base: BaseTokens) -> ActivationProof:
    """Return an example prompt with its activation point.

    Raises:
        TrainingError: the adapter would not act; says why.
    """
    problems = ProblemList()
    line = spec.line("invocation")
    if not version.invocation_ids:
        problems.add(spec.path.name, line, f"has invocation {shown(spec.invocation)}, which has no tokens")
        problems.raise_any()
    proof = ActivationProver(base.tokenizer).prove(version)
    for problem in proof.problems:
        problems.add(spec.path.name, line, f"has an invocation that does not act: {problem.text}")
    problems.raise_any()
    if proof.mode is None:
        raise TrainingError(f"{spec.path.name}:{line} has an invocation whose place is not known")
    return proof


def placement_notes(spec: TrainingSpec, version: AdapterVersion, mode: InvocationMode, tokenizer: Any) -> Iterator[str]:
    """Yield what to know about an invocation that a program other than this platform may tokenize in another way."""
    encoder, ids = Encoder(tokenizer), version.invocation_ids
    text, own = spec.invocation, f"the invocation {shown(spec.invocation)} has the tokens {list(ids)} by itself"
    instruction = None if version.intrinsic is None else version.intrinsic.instruction
    if mode is InvocationMode.APPENDED:
        merged = next((probe for probe in _PROBES if encoder.ids(probe + text)[-len(ids) :] != list(ids)), None)
        if merged is not None:
            yield (
                f"{own}, and others behind {shown(merged)}: the gateway appends the tokens; a program that tokenizes "
                "the whole text would not invoke the adapter. Begin the invocation with a special token to avoid that"
            )
    elif mode is InvocationMode.INSTRUCTION and instruction and activation_point(encoder.ids(instruction), ids) is None:
        yield (
            f"{own}, and others in the instruction, where it is merged with its neighbours: the gateway tokenizes it "
            "apart from them; a program that does not would not invoke the adapter"
        )
