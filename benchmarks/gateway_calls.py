"""Calls of the gateway benchmark: what is sent, and what one turn of an arm measures."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aloraserve_services.engine.simulated.answer_words import AnswerWords
from benchmarks.harness.counting_client import CHATS, CountedAnswer, CountingClient
from benchmarks.harness.processes import PlatformProcesses, used

TEMPLATE_TOKENS = 30
"""Of a chat with one message, beside the message's own: the packaged model's system prompt and its marks."""
CALL_TOKENS, CACHED_TOKENS = 500, 1000
CACHED_PROMPTS, CACHED_SEED = 10, 1_000_000
SHORT_ANSWER, LONG_ANSWER = 16, 256
STREAM_TOKENS = 512

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """Something that answers OpenAI's API, and what its own processes are.

    Args:
        name: in the results.
        urls: addresses; connections are spread over them in turn.
        processes: whose CPU time is its own, None if that is not looked at.
    """

    name: str
    urls: tuple[str, ...]
    processes: PlatformProcesses | None = None

    def clients(self, count: int) -> list[CountingClient]:
        """Return as many clients, each with a connection of its own."""
        return [CountingClient(self.urls[number % len(self.urls)]) for number in range(count)]


class Bodies:
    """Bodies of chats, with prompts of an exact number of tokens, the question apart.

    Args:
        model: served name.
        words: of the model's tokenizer, one token each.
        question: ends each message, so that a real model has something to say.

    Attributes:
        model: likewise.
    """

    def __init__(self, model: str, words: AnswerWords, question: str = "") -> None:
        self.model = model
        self._words = words
        self._question = question
        self._numbers = itertools.count(1)

    def fresh(self, prompt_tokens: int, answer_tokens: int, *, stream: bool = False) -> Body:
        """Return a body whose prompt was never sent before."""
        return self.chat(self.text(next(self._numbers), prompt_tokens), answer_tokens, stream=stream)

    def text(self, seed: int, prompt_tokens: int) -> str:
        """Return a message; equal seeds give equal ones."""
        answer = self._words.answer([seed], None, 0)
        return "".join(answer.word(at).text for at in range(prompt_tokens - TEMPLATE_TOKENS)) + self._question

    def chat(self, text: str, answer_tokens: int, *, stream: bool) -> Body:
        """Return the body of a chat with one message."""
        messages = [{"role": "user", "content": text}]
        body: Body = {"model": self.model, "messages": messages, "max_tokens": answer_tokens, "temperature": 0}
        return body | ({"stream": True, "ignore_eos": True} if stream else {})


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of an arm.

    Args:
        answers: to the calls.
        seconds: that they took.
        cpu_s: that each part of the arm used; empty if that is not looked at.
    """

    answers: list[CountedAnswer]
    seconds: float
    cpu_s: dict[str, float]

    @property
    def events(self) -> int:
        """Events of all streams."""
        return sum(answer.events for answer in self.answers)


async def turn(arm: Arm, made: Iterator[Body], *, at_once: int, seconds: float | None = None) -> Turn:
    """Play a turn: all bodies, or those that there is time for; each connection makes one call after the other."""
    clients, answers = arm.clients(at_once), list[CountedAnswer]()
    before = {} if arm.processes is None else arm.processes.cpu_s()
    started = time.perf_counter()

    async def play(client: CountingClient) -> None:
        for body in made:
            answers.append(await client.call(CHATS, body))
            if seconds is not None and time.perf_counter() - started > seconds:
                break
        client.close()

    await asyncio.gather(*(play(client) for client in clients))
    took_s = time.perf_counter() - started
    return Turn(answers, took_s, {} if arm.processes is None else used(before, arm.processes.cpu_s()))


async def interleaved_ttft(
    arms: Sequence[Arm], bodies: Bodies, count: int, prompts: int = CACHED_PROMPTS
) -> dict[str, list[float]]:
    """Return the TTFT of calls whose prompts every arm has cached, one after the other, the arms in turn."""
    texts = [bodies.text(CACHED_SEED + number, CACHED_TOKENS) for number in range(prompts)]
    clients = {arm.name: arm.clients(1)[0] for arm in arms}
    found: dict[str, list[float]] = {arm.name: [] for arm in arms}
    order = list(clients)
    for number in range(-2 * prompts, count):
        body = bodies.chat(texts[number % prompts], 2, stream=True)
        order.append(order.pop(0))
        for name in order:
            answer = await clients[name].call(CHATS, body)
            if number >= 0:
                found[name].append(answer.ttft_s)
    for client in clients.values():
        client.close()
    return found


def repeated(make: Callable[[], Body], count: int | None = None) -> Iterator[Body]:
    """Return bodies, made as they are asked for; without a count there is no end."""
    return (make() for _ in (itertools.count() if count is None else range(count)))
