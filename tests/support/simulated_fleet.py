"""Replicas without a model, each with its real ingest, and a judge of every decision that is made of what they say."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from aloraserve.blocks import BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, EventBatch, KeySpace
from aloraserve.directory.base import LEASE_TTL_S, Directory, ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.router import Router

BLOCK = 4
SPACE = KeySpace("model", "tokenizer", BLOCK)
STALE_S = 3.0
RIGHT_AGAIN_S = 5.0
HEARTBEAT_S = 0.15
FAULT_S = LEASE_TTL_S + 1


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Wait until ``check`` holds and return how long that took."""
    started = time.monotonic()
    while not await check():
        assert time.monotonic() - started < within_s, f"did not come true within {within_s:g} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


@dataclass(frozen=True)
class Prompt:
    """A conversation that calls may go on with."""

    number: int
    blocks: int
    tokens: tuple[int, ...] = field(init=False)
    keys: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(range(self.number << 20, (self.number << 20) + self.blocks * BLOCK)))
        object.__setattr__(self, "keys", SPACE.keys(self.tokens))

    @property
    def call(self) -> Call:
        """A call with it."""
        return Call(len(self.tokens), BLOCK, self.keys)


def prompts(count: int, blocks: int) -> list[Prompt]:
    return [Prompt(number, blocks) for number in range(count)]


CHATS = prompts(20, 500)


class SimulatedReplica:
    """A replica's engine as its events tell of it, its mirror and ingest, and its heartbeat.

    It holds leading blocks of prompts, and remembers what it held before: ``allowed`` is how many blocks of a prompt
    a decision may still believe that it has.
    """

    def __init__(self, name: str, directory: Directory) -> None:
        self.name = name
        self.ingest: Ingest
        self.lost: set[int] = set()
        self._directory = directory
        self._held: dict[int, int] = {}
        self._history: dict[int, list[tuple[float, int]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._sequence = 0

    def start(self) -> None:
        """Start as a new process with an empty engine."""
        mirror = Mirror(SPACE, lambda _: None)
        self._sequence = 0
        self.ingest = Ingest(self._directory, self.name, uuid.uuid4().hex[:12], mirror, on_gap=self._reset_soon)
        self._tasks = [asyncio.create_task(self.ingest.run()), asyncio.create_task(self._beat())]

    async def kill(self) -> None:
        """End as a process does that gets no chance to say so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for number in list(self._held):
            self._note(number, 0)

    def hold(self, prompt: Prompt, blocks: int) -> None:
        """Have exactly the first ``blocks`` blocks of a prompt from now on."""
        have = self._held.get(prompt.number, 0)
        hashes = [prompt.number << 20 | index for index in range(prompt.blocks)]
        if blocks > have:
            tokens = prompt.tokens[have * BLOCK : blocks * BLOCK]
            self.emit(BlocksStored(tuple(hashes[have:blocks]), hashes[have - 1] if have else None, tokens))
        elif blocks < have:
            self.emit(BlocksRemoved(tuple(reversed(hashes[blocks:have]))))
        self._note(prompt.number, blocks)

    def emit(self, event: EngineEvent) -> EventBatch:
        """Tell of an event, unless its batch is one of those that get lost."""
        batch = EventBatch(self._sequence, (event,))
        self._sequence += 1
        if batch.sequence not in self.lost:
            self.ingest.offer(batch)
        return batch

    def held(self, prompt: Prompt) -> int:
        """Return how many leading blocks of a prompt the engine has."""
        return self._held.get(prompt.number, 0)

    def allowed(self, prompt: Prompt, now: float) -> int:
        """Return the most blocks that it had at any time in the last ``STALE_S``."""
        past = [blocks for until, blocks in self._history.get(prompt.number, ()) if until > now - STALE_S]
        return max([self.held(prompt), *past])

    def _note(self, number: int, blocks: int) -> None:
        self._history.setdefault(number, []).append((time.monotonic(), self._held.get(number, 0)))
        self._held[number] = blocks

    def _reset_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._reset)

    def _reset(self) -> None:
        self.emit(BlocksCleared())
        for number in list(self._held):
            self._note(number, 0)

    async def _beat(self) -> None:
        while True:
            await self.ingest.heartbeat(ReplicaState(self.name, ""))
            await asyncio.sleep(HEARTBEAT_S)


class Judge:
    """A gateway that decides all the time, and fails the test at the first decision that is none, or a stale one."""

    def __init__(
        self, directory: Directory, replicas: Sequence[SimulatedReplica], chats: Sequence[Prompt], *, budget_s: float
    ) -> None:
        self.decisions = self.fallbacks = self.stale = 0
        self.faults: list[str] = []
        self.longest_s = 0.0
        self._directory = directory
        self._replicas = {one.name: one for one in replicas}
        self._chats = list(chats)
        names = sorted(self._replicas)
        self.router = Router(directory, ExpectedTtft(), SPACE, budget_s=budget_s, known_replicas=lambda: names)
        self._task: asyncio.Task[None] | None = None
        self._random = random.Random(0)

    async def __aenter__(self) -> Judge:
        self._task = asyncio.create_task(self._judge())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        assert self.decisions > 0
        assert not self.faults, self.faults[:5]

    async def is_right(self) -> bool:
        """Whether the directory says of every prompt exactly what the replicas' engines have."""
        try:
            for chat in self._chats:
                found = {one.state.replica: one for one in await self._directory.lookup(chat.keys)}
                for name, replica in self._replicas.items():
                    if replica._tasks and name not in found:
                        return False
                    if name in found and found[name].held_blocks != replica.held(chat):
                        return False
        except DirectoryUnavailableError:
            return False
        return True

    async def _judge(self) -> None:
        while True:
            await self._decide(self._random.choice(self._chats))
            await asyncio.sleep(0.01)

    async def _decide(self, chat: Prompt) -> None:
        started = time.monotonic()
        decision = await self.router.decide(chat.call)
        now = time.monotonic()
        self.decisions += 1
        self.fallbacks += decision.policy == "fallback"
        self.longest_s = max(self.longest_s, now - started)
        if sorted(decision.rank) != sorted(self._replicas):
            self.faults.append(f"ranked {decision.rank}: {decision.reason}")
        for estimate in decision.estimates:
            replica = self._replicas[estimate.replica]
            if estimate.overlap_tokens > replica.allowed(chat, started) * BLOCK:
                self.stale += 1
                self.faults.append(
                    f"{replica.name} believed to have {estimate.overlap_tokens} tokens of {chat.number}; "
                    f"it has {replica.held(chat)} blocks and had {replica.allowed(chat, started)}"
                )


class Fleet:
    """Two full replicas, and a gateway that decides all the time."""

    def __init__(self, replicas: list[SimulatedReplica], judge: Judge) -> None:
        self.replicas = replicas
        self.judge = judge

    async def __aenter__(self) -> Fleet:
        for replica in self.replicas:
            replica.start()
            for chat in CHATS:
                replica.hold(chat, chat.blocks)
        await self.comes_right(within_s=20)
        await self.judge.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.judge.__aexit__(*details)
        for replica in self.replicas:
            await replica.kill()

    async def comes_right(self, within_s: float = RIGHT_AGAIN_S) -> float:
        """Wait until the directory says what the engines have."""
        return await eventually(self.judge.is_right, within_s)

    def change(self, replica: SimulatedReplica) -> None:
        """Have an engine evict some, store some again, and drop a prompt."""
        for chat in CHATS[:6]:
            replica.hold(chat, chat.blocks // 2)
        for chat in CHATS[:3]:
            replica.hold(chat, chat.blocks - 1)
        replica.hold(CHATS[7], 0)

    async def last(self, seconds: float = FAULT_S) -> None:
        """Let a fault last, with changes at its begin and amid it."""
        for replica in self.replicas:
            self.change(replica)
        await asyncio.sleep(seconds / 2)
        for replica in self.replicas:
            replica.hold(CHATS[8], 3)
        await asyncio.sleep(seconds / 2)


def fleet(gateway: Directory, *replicas: Directory, budget_s: float = 0.05) -> Fleet:
    simulated = [SimulatedReplica(f"r{number}", directory) for number, directory in enumerate(replicas)]
    return Fleet(simulated, Judge(gateway, simulated, CHATS, budget_s=budget_s))
