"""locust's users: they play the phase of their environment."""

from __future__ import annotations

import random
from typing import Any

import gevent
from gevent.pool import Pool
from locust import User, task

from loadtests import pipelines
from loadtests.conversation_driver import ConversationDriver, PhaseContext, pause
from loadtests.plan import Phase
from loadtests.replay import conversation_rows
from loadtests.transport import Transport

MAX_AT_ONCE = 512


class PlatformUser(User):
    """Base of the users: it needs ``environment.phase_context`` and ``environment.transport``."""

    abstract = True

    @property
    def phase_context(self) -> PhaseContext:
        """Context that all conversations of the phase share."""
        context: PhaseContext = self.environment.phase_context
        return context

    @property
    def transport(self) -> Transport:
        """How to call the platform."""
        transport: Transport = self.environment.transport
        return transport

    @property
    def phase(self) -> Phase:
        """The phase that is played."""
        return self.phase_context.phase

    def done(self) -> None:
        """Note that one of the phase's tasks is done; the last one ends it."""
        environment = self.environment
        environment.tasks_left -= 1
        if environment.tasks_left <= 0:
            # By another greenlet: this one is among those that it stops.
            gevent.spawn(environment.finish)

    def rest(self) -> None:
        """Do nothing until the phase ends."""
        while True:
            pause(1)

    def converse(self, variant: str, arm: str, number: int) -> None:
        """Hold a conversation: turns with pauses, several intrinsics after each answer."""
        plan = self.phase_context.plan
        chooser = random.Random(f"{plan.seed}/think/{variant}")  # noqa: S311
        length = self.phase.lengths[number % len(self.phase.lengths)]
        driver = ConversationDriver(
            self.phase_context,
            self.transport,
            (arm,),
            "conversation",
            variant,
            length,
            more=self.phase.more_tokens(number, plan.seed),
        )
        for turn in range(self.phase.turns):
            if turn:
                pause(chooser.expovariate(1 / plan.think_s) if plan.think_s else 0.0)
                driver.user()
            if driver.base() is None:
                return
            driver.evaluate_all(plan.intrinsics[: plan.evaluators])


class SyncUser(PlatformUser):
    """One user that plays one pipeline after the other, the arms in random order for each sample."""

    fixed_count = 1

    @task
    def play(self) -> None:
        """Play the whole phase."""
        phase, plan = self.phase, self.phase_context.plan
        chooser = random.Random(f"{plan.seed}/order/{phase.name}")  # noqa: S311
        for number in range(phase.count):
            for pipeline in phase.pipelines:
                for length in phase.lengths:
                    arms = list(phase.arms)
                    chooser.shuffle(arms)
                    for together in [arms] if pipeline in pipelines.SHARED else [[arm] for arm in arms]:
                        self._play(together, pipeline, length, number)
        self.done()
        self.rest()

    def _play(self, arms: list[str], pipeline: str, length: int, number: int) -> None:
        """Play one sample of a pipeline in arms that share their base calls."""
        context = self.phase_context
        variant, more = f"{length}-{number}", self.phase.more_tokens(number, context.plan.seed)
        driver = ConversationDriver(context, self.transport, arms, pipeline, variant, length, more=more)
        pipelines.play(driver, pipeline, context.plan, self.phase.turns)


class ConversationUser(PlatformUser):
    """A closed loop: each user holds one conversation after the other."""

    @task
    def play(self) -> None:
        """Take conversations until there are none left."""
        phase = self.phase
        while (number := self.environment.next_conversation()) is not None:
            self.converse(f"c{number}", phase.arms[0], number)
            self.done()
        self.rest()


class PoissonUser(PlatformUser):
    """One user that starts conversations at random times, however busy the platform is."""

    fixed_count = 1

    @task
    def play(self) -> None:
        """Start all conversations and wait for their ends."""
        phase, pool = self.phase, Pool(MAX_AT_ONCE)
        chooser = random.Random(f"{self.phase_context.plan.seed}/arrivals/{phase.rate_per_s:g}")  # noqa: S311
        for number in range(phase.count):
            pause(chooser.expovariate(phase.rate_per_s))
            pool.spawn(self.converse, f"p{number}", phase.arms[0], number)
        pool.join()
        self.done()
        self.rest()


class TraceUser(PlatformUser):
    """One user that replays a trace's base calls at their times, with intrinsics after each answer."""

    fixed_count = 1

    @task
    def play(self) -> None:
        """Replay the trace and wait for the last answer."""
        plan, pool = self.phase_context.plan, Pool(MAX_AT_ONCE)
        at_s = 0.0
        for row in conversation_rows(plan):
            pause(max(0.0, row.arrival_s / plan.rate_scale - at_s))
            at_s = row.arrival_s / plan.rate_scale
            pool.spawn(self._replay, row)
        pool.join()
        self.done()
        self.rest()

    def _replay(self, row: Any) -> None:
        context, plan = self.phase_context, self.phase_context.plan
        driver = ConversationDriver(context, self.transport, self.phase.arms, "trace", f"t{row.ids[0]}", 0)
        # Rows share what their ids say, and arms nothing.
        opening = context.texts.opening(f"{self.phase.name}/{self.phase.arms[0]}")
        driver.messages = [opening, *row.messages(context.texts, context.words_per_token, plan.max_prompt_tokens)]
        if driver.base() is not None:
            driver.evaluate_all(plan.intrinsics[: plan.evaluators])


USERS = {"sync": SyncUser, "closed": ConversationUser, "poisson": PoissonUser, "trace": TraceUser}
