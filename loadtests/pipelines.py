"""The pipelines of the paper (Li et al., arXiv 2512.17910, section 4), one call at a time or several at once.

The *evaluation step* is the one that is compared: the intrinsic's call, in ``adapter-base`` the base model's after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loadtests.conversation_driver import SECOND_REQUEST, ConversationDriver
from loadtests.plan import LoadPlan

Pipeline = Callable[[ConversationDriver, LoadPlan, int], None]


def base_adapter(driver: ConversationDriver, plan: LoadPlan, turns: int) -> None:
    """The base model answers, an intrinsic judges; then the conversation grows by a turn, and so on."""
    for turn in range(turns):
        if turn:
            driver.user()
        if driver.base() is None:
            return
        driver.evaluate(plan.intrinsics[0])


def adapter_base(driver: ConversationDriver, plan: LoadPlan, turns: int) -> None:
    """An intrinsic reads a new document first; the base model answers on what it computed."""
    if driver.evaluate(plan.intrinsics[0], append=True) is None:
        return
    driver.user(SECOND_REQUEST)
    driver.base("after-adapter")


def base_adapter_base(driver: ConversationDriver, plan: LoadPlan, turns: int) -> None:
    """The base model answers, an intrinsic judges, the base model answers again."""
    if driver.base() is None or driver.evaluate(plan.intrinsics[0]) is None:
        return
    driver.user(SECOND_REQUEST)
    driver.base("after-adapter")


def multi_adapter(driver: ConversationDriver, plan: LoadPlan, turns: int) -> None:
    """The base model answers, five intrinsics judge at once, the base model answers again."""
    if driver.base() is None:
        return
    driver.evaluate_all(plan.intrinsics[:5])
    driver.user(SECOND_REQUEST)
    driver.base("after-adapter")


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


def play(driver: ConversationDriver, name: str, plan: LoadPlan, turns: int) -> None:
    """Play a pipeline and leave a sample of the whole."""
    driver.run_timed(lambda driver: PLAYS[name](driver, plan, turns))
