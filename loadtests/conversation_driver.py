"""Drives one variant of a conversation: it calls, grows, and leaves samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gevent
from gevent.pool import Group

from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from loadtests.arms import ALL, ARMS
from loadtests.plan import LoadPlan, Phase
from loadtests.samples import Sample
from loadtests.texts import Message, TextSource
from loadtests.transport import Transport

Record = Callable[[Sample], None]
SECOND_REQUEST = "The checks are done. Answer once more."
NEW_TURN_WORDS = 80
TEMPLATE_TOKENS = 50
"""About what system message, question and chat template take."""


@dataclass(slots=True)
class PhaseContext:
    """Context that all conversations of a phase share.

    Args:
        plan: of the load test.
        phase: that is played.
        texts: what they are about.
        words_per_token: measured on the platform's own tokenizer.
        base: name of the base model.
        record: takes each sample.
        started_at: on ``time.perf_counter``'s clock.
    """

    plan: LoadPlan
    phase: Phase
    texts: TextSource
    words_per_token: float
    base: str
    record: Record
    started_at: float = field(default_factory=time.perf_counter)


class ConversationDriver:
    """See the module's docstring.

    Args:
        context: see :class:`PhaseContext`.
        transport: how to call.
        arms: names of the arms whose intrinsics judge it; base calls are theirs together.
        pipeline: for the samples.
        variant: equal names have equal content, but for the first words, in every arm.
        length: tokens of the first prompt, about; what samples are grouped by.
        more: tokens that this variant has more.
    """

    def __init__(
        self,
        context: PhaseContext,
        transport: Transport,
        arms: Sequence[str],
        pipeline: str,
        variant: str,
        length: int,
        *,
        more: int = 0,
    ) -> None:
        self._context = context
        self._transport = transport
        self._arms = tuple(arms)
        self._shared = arms[0] if len(arms) == 1 else ALL
        self._pipeline = pipeline
        self._variant = variant
        self._length = length
        self._turns = 0
        self._seen: set[tuple[str, str]] = set()
        words = max(8, round((length + more - TEMPLATE_TOKENS) * context.words_per_token))
        self.messages: list[Message] = [
            context.texts.opening(f"{context.phase.name}/{self._shared}/{pipeline}/{variant}"),
            {
                "role": "user",
                "content": f"{context.texts.document(variant, words)}\n\n{context.texts.question(variant)}",
            },
        ]

    def base(self, step: str = "base") -> StreamedAnswer | None:
        """Let the base model answer and append the answer; return None if it failed."""
        state = "returning" if self._turns else "first"
        answer = self._call(self._shared, self._context.base, step, state, self._context.plan.answer_tokens)
        if answer is not None:
            self.messages.append({"role": "assistant", "content": answer.text or "-"})
        return answer

    def evaluate(self, intrinsic: str, *, append: bool = False) -> StreamedAnswer | None:
        """Let an intrinsic judge the conversation so far, in each arm; return None if one failed.

        Args:
            intrinsic: its name.
            append: take what it says for the assistant's turn; for a conversation of one arm.
        """
        answer = None
        for arm in self._arms:
            model = ARMS[arm].model(intrinsic, self._context.base)
            state = "returning" if (arm, model) in self._seen else "first"
            self._seen.add((arm, model))
            answer = self._call(arm, model, "evaluation", state, self._context.plan.evaluation_tokens)
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
        name = f"{self._variant}/{self._turns}"
        if text is None:
            text = f"{self._context.texts.document(name, NEW_TURN_WORDS)}\n{self._context.texts.question(name)}"
        self.messages.append({"role": "user", "content": text})

    def run_timed(self, play: Callable[[ConversationDriver], None]) -> None:
        """Play something and leave a sample of all of it."""
        started = time.perf_counter()
        play(self)
        self._context.record(self._sample(self._shared, "whole", "first", started, e2e_s=time.perf_counter() - started))

    def _call(self, arm: str, model: str, step: str, state: str, tokens: int) -> StreamedAnswer | None:
        started = time.perf_counter()
        try:
            answer = self._transport.chat(model, list(self.messages), tokens)
        except CallFailedError as error:
            self._context.record(
                self._sample(arm, step, state, started, e2e_s=time.perf_counter() - started, error=error.message)
            )
            return None
        self._context.record(
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
            phase=self._context.phase.name,
            pipeline=self._pipeline,
            arm=arm,
            step=step,
            state=state,
            length=self._length,
            at_s=started - self._context.started_at,
            variant=self._variant,
            rate_per_s=self._context.phase.rate_per_s,
            **figures,  # type: ignore[arg-type]
        )


def pause(seconds: float) -> None:
    """Wait without holding up others."""
    gevent.sleep(seconds)
