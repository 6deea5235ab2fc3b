"""Preparation of a phase: the platform serves what the plan needs, its tokens are measured, its models are warm."""

from __future__ import annotations

from loadtests.arms import ARMS
from loadtests.conversation_driver import PhaseContext, Record
from loadtests.plan import LoadPlan, Phase
from loadtests.texts import TextSource, read_documents
from loadtests.transport import Transport

PROBE_WORDS = 300


class NotServedError(Exception):
    """Raised when the platform does not serve a model that the plan needs; names both."""


def base_model(plan: LoadPlan, phase: Phase, served: list[str]) -> str:
    """Return the base model's name: the first that is served.

    Raises:
        NotServedError: an adapter that the phase calls is not served.
    """
    if not served:
        raise NotServedError("the platform serves no model")
    base = served[0]
    for intrinsic in plan.intrinsics:
        for arm in phase.arms:
            wanted = ARMS[arm].model(intrinsic, base)
            if wanted not in served:
                raise NotServedError(f"the platform does not serve {wanted!r}; served are {', '.join(served)[:400]}")
    return base


def warm_up(plan: LoadPlan, phase: Phase, transport: Transport, record: Record) -> PhaseContext:
    """Call every model once; return what a phase's users need.

    Raises:
        CallFailedError: the platform does not answer.
        NotServedError: it lacks an adapter.
        ValueError: the plan's data cannot be read.
    """
    base = base_model(plan, phase, transport.models())
    texts = TextSource(plan.seed, read_documents(plan.data) if plan.data else ())
    short, long = (
        transport.chat(base, [{"role": "user", "content": texts.document("probe", words)}], 2).prompt_tokens
        for words in (PROBE_WORDS, 3 * PROBE_WORDS)
    )
    # The difference leaves out what the chat template adds to any conversation.
    tokens_per_word = (long - short) / (2 * PROBE_WORDS)
    for intrinsic in plan.intrinsics:
        for arm in phase.arms:
            # Each adapter is called once before anything counts: a load from disk is not part of what is compared.
            transport.chat(ARMS[arm].model(intrinsic, base), [{"role": "user", "content": "Hello."}], 2)
    return PhaseContext(plan, phase, texts, 1 / tokens_per_word, base, record)
