"""Plays conversations over HTTP and keeps what came of each call.

Prompts are texts whose words are a token each, because not every router takes token ids.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from aloraserve.serving.session import SESSION_HEADER
from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.models.untrained import TWIN_SUFFIX
from aloraserve_services.plan import FleetPlan
from benchmarks.conversations import (
    ALORA_EVALUATORS,
    ANSWER_TOKENS,
    EVALUATOR_TOKENS,
    Conversation,
    Kind,
    Turn,
    conversations,
)
from benchmarks.harness.client import AsyncStreamingClient

IDLE_CALLS = 40
IDLE_TOKENS = 1500


class ConversationPlayer:
    """See the module's docstring.

    Args:
        plan: of the engines, with the untrained adapters.
        client: for the HTTP API.
        with_session: send each conversation's name as its session id.
        slowdown: real seconds for each second of the workload.
    """

    def __init__(self, plan: FleetPlan, client: AsyncStreamingClient, *, with_session: bool, slowdown: float) -> None:
        adapters = plan.open_registry().all()
        aloras = [adapter.name for adapter in adapters if adapter.invocation_ids][:ALORA_EVALUATORS]
        # The LoRA is not the twin of one of them: three different evaluators.
        twins = {f"{name}{TWIN_SUFFIX}" for name in aloras}
        loras = (adapter.name for adapter in adapters if not adapter.invocation_ids)
        lora = next(name for name in loras if name not in twins)
        self._base = plan.served_name
        self._evaluators: tuple[tuple[Kind, str], ...] = (*(("alora", name) for name in aloras), ("lora", lora))
        self._words = AnswerWords.read(plan.model_path)
        self._client = client
        self._with_session = with_session
        self._slowdown = slowdown
        self.answers: dict[str, StreamedAnswer] = {}
        self.kinds: dict[str, Kind] = {}
        self.errors: list[str] = []

    async def idle(self, seed: int) -> dict[str, StreamedAnswer]:
        """Make calls one after the other, each with a prompt of its own; half of them cached."""
        made = conversations(1.0, seed - 1, count=IDLE_CALLS // 2)
        found = {}
        for number, conversation in enumerate(made):
            prompt = self._words.text_of((conversation.turns[0].token_ids * IDLE_TOKENS)[:IDLE_TOKENS])
            for time_called in range(2):
                name = f"idle-{seed}-{number}-{time_called}"
                found[name] = await self._client.complete(name, self._base, prompt, 2)
        return found

    async def play(self, made: Sequence[Conversation]) -> None:
        """Play all conversations, each from its start on."""
        started = time.perf_counter()
        await asyncio.gather(*(self._converse(conversation, started) for conversation in made))

    async def _converse(self, conversation: Conversation, started: float) -> None:
        await asyncio.sleep(max(0.0, started + conversation.start_s * self._slowdown - time.perf_counter()))
        prompt = self._words.text_of(conversation.document)
        for number, turn in enumerate(conversation.turns):
            await asyncio.sleep(turn.think_s * self._slowdown)
            played = await self._turn(conversation, number, turn, prompt)
            if played is None:
                return
            prompt = played

    async def _turn(self, conversation: Conversation, number: int, turn: Turn, prompt: str) -> str | None:
        """Play a turn; return the prompt with it, None if the conversation cannot go on."""
        prompt += self._words.text_of(turn.token_ids)
        name = f"{conversation.name}-{number}"
        answer = await self._call(conversation, name, "base", self._base, prompt, ANSWER_TOKENS)
        if answer is None:
            return None
        prompt += answer.text
        await asyncio.gather(
            *(
                self._call(conversation, f"{name}-{model}", kind, model, prompt, EVALUATOR_TOKENS)
                for kind, model in self._evaluators
            )
        )
        return prompt

    async def _call(
        self, conversation: Conversation, name: str, kind: Kind, model: str, prompt: str, max_tokens: int
    ) -> StreamedAnswer | None:
        session = {SESSION_HEADER: conversation.name} if self._with_session else None
        try:
            answer = await self._client.complete(name, model, prompt, max_tokens, session)
        except CallFailedError as error:
            self.errors.append(error.message[:300])
            return None
        self.answers[name] = answer
        self.kinds[name] = kind
        return answer
