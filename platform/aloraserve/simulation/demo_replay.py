"""Real calls played again on modelled engines: how far estimated TTFTs are from measured ones.

The calls are those of a demo's JSON file: one after the other, conversations that grow, each question and each answer
judged by adapters. What the file does not say is taken from how the demo works: all prompts of a conversation are the
beginning of one stream of tokens; of a turn's prompts that judge the question the shortest adds an invocation of
``INVOCATION_TOKENS`` tokens to it, and the longer ones have longer invocations; so it is with those that judge the
answer; a base answer has ``ANSWER_TOKENS`` tokens.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.simulation.base import (
    Kind,
    ReplicaView,
    RouterFactory,
    RouterModel,
    RunContext,
    SimulatedCall,
    VisibleFleet,
)
from aloraserve.simulation.modelled_engine import ModelledEngine, ModelledRequest, StepResult
from aloraserve.simulation.modelled_replica import ModelledReplica, ReplicaHooks
from aloraserve.simulation.simulated_loop import SimulatedLoop

ANSWER_TOKENS = 48
JUDGEMENT_TOKENS = 4
INVOCATION_TOKENS = 5
OPENING_TOKENS = 3
"""By which a base prompt, which opens the answer, is longer than the conversation."""
PAUSE_S = 0.3
"""Between an answer and the next call: the replica's report is out by then, as it is in the demo."""
MAX_CALLS = 100_000


@dataclass(frozen=True, slots=True)
class RealCall:
    """One call of the demo, as its file has it.

    Args:
        conversation: which.
        turn: of that conversation.
        adapter: name, "base" for none.
        kind: of the adapter.
        prompt_tokens: of the prompt.
        cached_tokens: of those, not computed.
        ttft_s: measured.
    """

    conversation: str
    turn: int
    adapter: str
    kind: Kind
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float


@dataclass(frozen=True, slots=True)
class ReplayedCall:
    """A real call and what the model says of it.

    Args:
        real: the call.
        cached_tokens: on the modelled engine.
        ttft_s: there.
    """

    real: RealCall
    cached_tokens: int
    ttft_s: float

    @property
    def relative_error(self) -> float:
        """How far the estimate is from what was measured, as a share of that."""
        return abs(self.ttft_s - self.real.ttft_s) / self.real.ttft_s


def median_error(replayed: Sequence[ReplayedCall]) -> float:
    """Return the median of the relative errors."""
    return statistics.median(call.relative_error for call in replayed)


def read_calls(path: Path) -> tuple[list[RealCall], int]:
    """Return a demo's calls and its number of replicas.

    Raises:
        SettingsError: the file is not what ``aloraserve demo --json`` writes; names what is missing or wrong.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        calls = content["calls"]
        replicas = content["summary"]["replicas"]
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is not what `aloraserve demo --json` writes: {error!r}") from None
    if not isinstance(calls, list) or not 1 <= len(calls) <= MAX_CALLS:
        raise SettingsError(f"{path}: calls must be a list of 1 to {MAX_CALLS}")
    if type(replicas) is not int or not 1 <= replicas <= 1000:
        raise SettingsError(f"{path}: summary.replicas is {replicas!r}; 1 to 1000 are accepted")
    return [_real_call(content, f"{path}: call {number}") for number, content in enumerate(calls, start=1)], replicas


def _real_call(content: object, where: str) -> RealCall:
    if not isinstance(content, dict):
        raise SettingsError(f"{where} is not an object")
    kinds: dict[str, type | tuple[type, ...]] = {
        "conversation": str,
        "turn": int,
        "adapter": str,
        "kind": str,
        "prompt_tokens": int,
        "cached_tokens": int,
        "ttft_s": (int, float),
    }
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise SettingsError(f"{where}: {name} is {content.get(name)!r}")
    if content["kind"] not in ("base", "lora", "alora"):
        raise SettingsError(f"{where}: kind is {content['kind']!r}; base, lora and alora are accepted")
    if content["prompt_tokens"] < 1 or not content["ttft_s"] > 0:
        raise SettingsError(f"{where}: prompt_tokens and ttft_s must be above 0")
    named = {name: content[name] for name in kinds if name != "kind"}
    return RealCall(kind=cast(Kind, content["kind"]), **named)


@dataclass(slots=True)
class DemoReplay:
    """Plays real calls on a modelled fleet, one after the other.

    Args:
        calls: in their order.
        calibration: of each engine.
        replicas: engines.
        make_router: makes the router.
        seed: of the router.
    """

    calls: Sequence[RealCall]
    calibration: Calibration
    replicas: int
    make_router: RouterFactory
    seed: int = 0
    _loop: SimulatedLoop = field(default_factory=SimulatedLoop)
    _replayed: list[ReplayedCall] = field(default_factory=list)
    _modelled: list[ModelledReplica] = field(default_factory=list)

    def run(self) -> list[ReplayedCall]:
        """Return every call with its estimate."""
        block = self.calibration.block_tokens
        space = KeySpace("replay", "", block)
        blocks = self.calibration.kv_tokens // block
        times = self.calibration
        views = [ReplicaView(index, blocks, times.max_num_seqs, times.adapters.slots) for index in range(self.replicas)]
        fleet = VisibleFleet(views, list(range(self.replicas)), block)
        router = self.make_router(RunContext(self.seed, fleet, self._loop))
        hooks = ReplicaHooks(
            lambda replica, request: replica.observer.first_token(request.call), partial(self._ended, router, space)
        )
        chance = random.Random(self.seed)  # noqa: S311
        self._modelled = [
            ModelledReplica(view, self._loop, router, (), chance, partial(self._engine, space), hooks) for view in views
        ]
        self._loop.at(PAUSE_S, lambda: self._send(0, router, space))
        self._loop.run()
        self._loop.close()
        return self._replayed

    def _engine(self, space: KeySpace, on_step: Callable[[StepResult], None]) -> ModelledEngine:
        return ModelledEngine(
            self.calibration,
            self._loop,
            on_step,
            kv_tokens=self.calibration.kv_tokens,
            block_tokens=self.calibration.block_tokens,
            answer_keys=partial(self._answer_keys, space),
            resident=sorted({call.adapter for call in self.calls if call.kind != "base"}),
        )

    def _send(self, number: int, router: RouterModel, space: KeySpace) -> None:
        self._loop.spawn(self._dispatch(self._simulated(number, space), router))

    async def _dispatch(self, call: SimulatedCall, router: RouterModel) -> None:
        self._modelled[await router.place(call)].submit(call)

    def _ended(self, router: RouterModel, space: KeySpace, replica: ModelledReplica, request: ModelledRequest) -> None:
        call = request.call
        replica.observer.finished(call)
        ttft_s = request.first_token_s - call.arrival_s + self.calibration.overhead_s
        self._replayed.append(ReplayedCall(self.calls[call.request], request.num_cached_tokens, ttft_s))
        if call.request + 1 < len(self.calls):
            self._loop.at(self._loop.now_s + PAUSE_S, lambda: self._send(call.request + 1, router, space))
        else:
            self._loop.stop()

    def _simulated(self, number: int, space: KeySpace) -> SimulatedCall:
        real = self.calls[number]
        is_base = real.kind == "base"
        adapter = None if is_base else real.adapter
        keys = partial(self._keys, real, space)
        return SimulatedCall(
            request=number,
            arrival_s=self._loop.now_s,
            session=real.conversation,
            adapter=adapter,
            kind=real.kind,
            prompt_tokens=real.prompt_tokens,
            output_tokens=ANSWER_TOKENS if is_base else JUDGEMENT_TOKENS,
            block_tokens=self.calibration.block_tokens,
            key_source=partial(keys, adapter if real.kind == "lora" else None),
            content_source=partial(keys, None),
            salted_source=partial(keys, adapter),
            turn=real.turn,
        )

    def _keys(self, real: RealCall, space: KeySpace, chain: str | None) -> list[BlockKey]:
        """Return a prompt's keys: the conversation's stream, with the invocation at the end of an adapter's prompt."""
        shared = real.prompt_tokens if real.kind == "base" else self._activation(real)
        stream = self._stream(real.conversation, shared)
        ending = [2**31 + index for index in range(real.prompt_tokens - shared)]
        salt = b"" if chain is None else chain.encode()
        if real.kind == "base" or not ending:
            return space.extend(space.root(None), stream, salt)
        whole = shared // space.block_tokens * space.block_tokens
        keys = space.extend(space.root(None), stream[:whole], salt)
        last = keys[-1] if keys else space.root(None)
        return keys + space.extend(last, stream[whole:] + ending, real.adapter.encode())

    def _activation(self, real: RealCall) -> int:
        """Return where the invocation begins in an adapter's prompt."""
        here = [call for call in self.calls if (call.conversation, call.turn) == (real.conversation, real.turn)]
        asked = max((call.prompt_tokens for call in here if call.kind == "base"), default=0) - OPENING_TOKENS
        room = asked + 2 * INVOCATION_TOKENS
        same = [
            call.prompt_tokens
            for call in here
            if call.kind != "base" and (call.prompt_tokens < room) == (real.prompt_tokens < room)
        ]
        return max(min(same) - INVOCATION_TOKENS, 0)

    def _answer_keys(self, space: KeySpace, call: SimulatedCall) -> list[BlockKey]:
        if call.kind != "base":
            return []
        computed = call.prompt_tokens + call.output_tokens - 1
        stream = self._stream(self.calls[call.request].conversation, computed)
        return space.extend(space.root(None), stream)[len(call.keys) :]

    @staticmethod
    def _stream(conversation: str, length: int) -> list[int]:
        """Return the first tokens of a conversation; its first one distinguishes it from others."""
        first = sum(conversation.encode()) * 1_000_003 % 2**30
        return [first, *range(1, length)] if length > 0 else []
