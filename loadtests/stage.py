"""Getting ready: whether the platform serves what a plan needs, and how long its tokens are."""

from __future__ import annotations

from loadtests.arms import ARMS
from loadtests.plan import LoadPlan, Phase
from loadtests.talk import Record, Stage
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


def make_stage(plan: LoadPlan, phase: Phase, transport: Transport, record: Record) -> Stage:
    """Return what a phase's users need; makes some calls, which also warm every model up.

    Raises:
        CallError: the platform does not answer.
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
    tokens_a_word = (long - short) / (2 * PROBE_WORDS)
    for intrinsic in plan.intrinsics:
        for arm in phase.arms:
            # Each adapter is called once before anything counts: a load from disk is no part of what is compared.
            transport.chat(ARMS[arm].model(intrinsic, base), [{"role": "user", "content": "Hello."}], 2)
    return Stage(plan, phase, texts, 1 / tokens_a_word, base, record)
