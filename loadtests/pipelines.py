"""The pipelines of the paper (Li et al., arXiv 2512.17910, section 4), one call at a time or several at once.

The *evaluation step* is the one that is compared: the intrinsic's call, in ``adapter-base`` the base model's after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loadtests.plan import LoadPlan
from loadtests.talk import AGAIN, Talk

Pipeline = Callable[[Talk, LoadPlan, int], None]


def base_adapter(talk: Talk, plan: LoadPlan, turns: int) -> None:
    """The base model answers, an intrinsic judges; then the conversation grows by a turn, and so on."""
    for turn in range(turns):
        if turn:
            talk.user()
        if talk.base() is None:
            return
        talk.evaluate(plan.intrinsics[0])


def adapter_base(talk: Talk, plan: LoadPlan, turns: int) -> None:
    """An intrinsic reads a new document first; the base model answers on what it computed."""
    if talk.evaluate(plan.intrinsics[0], append=True) is None:
        return
    talk.user(AGAIN)
    talk.base("after-adapter")


def base_adapter_base(talk: Talk, plan: LoadPlan, turns: int) -> None:
    """The base model answers, an intrinsic judges, the base model answers again."""
    if talk.base() is None or talk.evaluate(plan.intrinsics[0]) is None:
        return
    talk.user(AGAIN)
    talk.base("after-adapter")


def multi_adapter(talk: Talk, plan: LoadPlan, turns: int) -> None:
    """The base model answers, five intrinsics judge at once, the base model answers again."""
    if talk.base() is None:
        return
    talk.evaluate_all(plan.intrinsics[:5])
    talk.user(AGAIN)
    talk.base("after-adapter")


PLAYS: Mapping[str, Pipeline] = MappingProxyType(
    {
        "base-adapter": base_adapter,
        "adapter-base": adapter_base,
        "base-adapter-base": base_adapter_base,
        "multi-adapter": multi_adapter,
    }
)


SHARED = frozenset({"base-adapter"})
"""Pipelines in which no call depends on what an intrinsic computed: all arms judge one conversation, so that its base
calls are made once and the prompts that are compared are the same to the last token."""


def play(talk: Talk, name: str, plan: LoadPlan, turns: int) -> None:
    """Play a pipeline and leave a sample of the whole."""
    talk.whole(lambda one: PLAYS[name](one, plan, turns))
