"""One copy of a conversation in one arm: it calls, grows, and leaves samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gevent
from gevent.pool import Group

from loadtests.arms import ALL, ARMS
from loadtests.plan import LoadPlan, Phase
from loadtests.samples import Sample
from loadtests.texts import Message, TextSource
from loadtests.transport import Answer, CallError, Transport

Record = Callable[[Sample], None]
AGAIN = "The checks are done. Answer once more."
NEW_TURN_WORDS = 80
TEMPLATE_TOKENS = 50
"""What system message, question and chat template take, about."""


@dataclass(slots=True)
class Stage:
    """What all conversations of a phase share.

    Args:
        plan: of the load test.
        phase: that is played.
        texts: what they are about.
        words_a_token: measured on the platform's own tokenizer.
        base: name of the base model.
        record: takes each sample.
        started_at: on ``time.perf_counter``'s clock.
    """

    plan: LoadPlan
    phase: Phase
    texts: TextSource
    words_a_token: float
    base: str
    record: Record
    started_at: float = field(default_factory=time.perf_counter)


class Talk:
    """See the module's docstring.

    Args:
        stage: see :class:`Stage`.
        transport: how to call.
        arms: names of the arms whose intrinsics judge it; base calls are theirs together.
        pipeline: for the samples.
        copy: equal names have equal content, but for the first words, in every arm.
        length: tokens of the first prompt, about; what samples are grouped by.
        more: tokens that this copy has more.
    """

    def __init__(
        self,
        stage: Stage,
        transport: Transport,
        arms: Sequence[str],
        pipeline: str,
        copy: str,
        length: int,
        *,
        more: int = 0,
    ) -> None:
        self._stage = stage
        self._transport = transport
        self._arms = tuple(arms)
        self._shared = arms[0] if len(arms) == 1 else ALL
        self._pipeline = pipeline
        self._copy = copy
        self._length = length
        self._turns = 0
        self._seen: set[tuple[str, str]] = set()
        words = max(8, round((length + more - TEMPLATE_TOKENS) * stage.words_a_token))
        self.messages: list[Message] = [
            stage.texts.opening(f"{stage.phase.name}/{self._shared}/{pipeline}/{copy}"),
            {"role": "user", "content": f"{stage.texts.document(copy, words)}\n\n{stage.texts.question(copy)}"},
        ]

    def base(self, step: str = "base") -> Answer | None:
        """Let the base model answer and append the answer; return None if it failed."""
        state = "returning" if self._turns else "first"
        answer = self._call(self._shared, self._stage.base, step, state, self._stage.plan.answer_tokens)
        if answer is not None:
            self.messages.append({"role": "assistant", "content": answer.text or "-"})
        return answer

    def evaluate(self, intrinsic: str, *, append: bool = False) -> Answer | None:
        """Let an intrinsic judge the conversation so far, in each arm; return None if one failed.

        Args:
            intrinsic: its name.
            append: take what it says for the assistant's turn; for a conversation of one arm.
        """
        answer = None
        for arm in self._arms:
            model = ARMS[arm].model(intrinsic, self._stage.base)
            state = "returning" if (arm, model) in self._seen else "first"
            self._seen.add((arm, model))
            answer = self._call(arm, model, "evaluation", state, self._stage.plan.evaluation_tokens)
            if answer is None:
                return None
        if answer is not None and append:
            self.messages.append({"role": "assistant", "content": answer.text or "-"})
        return answer

    def evaluate_all(self, intrinsics: Sequence[str]) -> None:
        """Let intrinsics judge it at once."""
        group = Group()
        for intrinsic in intrinsics:
            group.spawn(self.evaluate, intrinsic)
        group.join(raise_error=True)

    def user(self, text: str | None = None) -> None:
        """Append the user's next turn, a new one if no text is given."""
        self._turns += 1
        name = f"{self._copy}/{self._turns}"
        if text is None:
            text = f"{self._stage.texts.document(name, NEW_TURN_WORDS)}\n{self._stage.texts.question(name)}"
        self.messages.append({"role": "user", "content": text})

    def whole(self, play: Callable[[Talk], None]) -> None:
        """Play something and leave a sample of all of it."""
        started = time.perf_counter()
        play(self)
        self._stage.record(self._sample(self._shared, "whole", "first", started, e2e_s=time.perf_counter() - started))

    def _call(self, arm: str, model: str, step: str, state: str, tokens: int) -> Answer | None:
        started = time.perf_counter()
        try:
            answer = self._transport.chat(model, list(self.messages), tokens)
        except CallError as error:
            self._stage.record(
                self._sample(arm, step, state, started, e2e_s=time.perf_counter() - started, error=str(error))
            )
            return None
        self._stage.record(
            self._sample(
                arm,
                step,
                state,
                started,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                ttft_s=answer.ttft_s,
                e2e_s=answer.e2e_s,
                itl_s=answer.itl_s,
                prefill_s=answer.prefill_s,
                saved_s=answer.saved_s,
                replica=answer.replica,
            )
        )
        return answer

    def _sample(self, arm: str, step: str, state: str, started: float, **figures: object) -> Sample:
        return Sample(
            phase=self._stage.phase.name,
            pipeline=self._pipeline,
            arm=arm,
            step=step,
            state=state,
            length=self._length,
            at_s=started - self._stage.started_at,
            copy=self._copy,
            rate_per_s=self._stage.phase.rate_per_s,
            **figures,  # type: ignore[arg-type]
        )


def pause(seconds: float) -> None:
    """Wait without holding up others."""
    gevent.sleep(seconds)
