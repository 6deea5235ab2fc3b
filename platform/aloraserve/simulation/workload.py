"""Workload of a fleet: a trace's base turns and, after each answer, evaluators on the conversation so far.

Keys are made from the trace's ids without any token: an id's blocks are cut from one digest (SHAKE-128) of the block
key before it and the id, so that equal prefixes have equal keys and nothing else does. A plain LoRA's chain starts
from a root of its own; an aLoRA's leaves the base model's chain at the activation point, the end of the answer.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate

from aloraserve.blocks import BlockKey
from aloraserve.blocks.keys import KEY_BYTES
from aloraserve.errors import SettingsError
from aloraserve.simulation.base import Kind, SimulatedCall
from aloraserve.simulation.trace import ID_TOKENS, TraceRow


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """How evaluators are called.

    Args:
        evaluators: calls after each answer.
        lora_share: share of them that are plain LoRA, 0 to 1.
        adapters: distinct adapters of each kind.
        block_tokens: tokens per block; divides 512.
        rate_scale: how much faster than the trace its turns come.
        invocation_tokens: added to the conversation for an evaluator.
        evaluation_tokens: length of an evaluator's answer.
        adapter_skew: exponent of Zipf's law: the n-th adapter of a kind is chosen in proportion to n to the minus that
            power; 0: all alike.
        seed: of which conversation gets which adapters, and of all that is hashed: session ids and block keys.
    """

    evaluators: int = 3
    lora_share: float = 1 / 3
    adapters: int = 4
    block_tokens: int = 64
    rate_scale: float = 1.0
    invocation_tokens: int = 8
    evaluation_tokens: int = 8
    adapter_skew: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise SettingsError for a value that makes no sense."""
        checks = (
            ("evaluators", 0 <= self.evaluators <= 64, "0 to 64"),
            ("lora_share", 0 <= self.lora_share <= 1, "0 to 1"),
            ("adapters", 1 <= self.adapters <= 10_000, "1 to 10000"),
            ("adapter_skew", 0 <= self.adapter_skew <= 5, "0 to 5"),
            ("block_tokens", self.block_tokens > 0 and ID_TOKENS % self.block_tokens == 0, f"a divisor of {ID_TOKENS}"),
            ("rate_scale", 0 < self.rate_scale <= 1e6, "more than 0, at most 1e6"),
            ("invocation_tokens", 1 <= self.invocation_tokens <= 4096, "1 to 4096"),
            ("evaluation_tokens", 1 <= self.evaluation_tokens <= 4096, "1 to 4096"),
        )
        for name, is_good, accepted in checks:
            if not is_good:
                raise SettingsError(f"{name} is {getattr(self, name)}; {accepted} is accepted")


class Workload:
    """Makes the calls of a trace.

    A conversation gets its evaluators once, from the seed, and they judge each of its answers: distinct adapters while
    there are enough, of each kind as many as ``lora_share`` says (a fraction decides by chance, once per conversation).

    Args:
        rows: base turns, sorted by time.
        settings: see :class:`WorkloadSettings`.
    """

    def __init__(self, rows: Sequence[TraceRow], settings: WorkloadSettings) -> None:
        self.rows = rows
        self.settings = settings
        self._roots: dict[str | None, BlockKey] = {}
        self._turn_keys: dict[int, list[BlockKey]] = {}

    def adapters(self) -> list[str]:
        """Return the names of all adapters that may be called, sorted."""
        settings = self.settings
        is_called = {"alora": settings.lora_share < 1, "lora": settings.lora_share > 0}
        kinds = [kind for kind in is_called if is_called[kind]]
        return sorted(f"{kind}-{number}" for kind in kinds for number in range(settings.adapters))

    def base_calls(self) -> Iterator[SimulatedCall]:
        """Yield the base turns, by time; request numbers leave room for each turn's evaluators."""
        for turn, row in enumerate(self.rows):
            yield self._call(turn, 0, row.arrival_s / self.settings.rate_scale, None, "base")

    def evaluations(self, base: SimulatedCall, now_s: float) -> list[SimulatedCall]:
        """Return the evaluators' calls that follow a base call whose answer ended at ``now_s``."""
        row = self.rows[base.turn]
        chosen = self._evaluators(row.session)
        numbered = enumerate(chosen, start=1)
        return [self._call(base.turn, number, now_s, adapter, kind) for number, (adapter, kind) in numbered]

    def answer_keys(self, call: SimulatedCall) -> list[BlockKey]:
        """Return the keys of the blocks that a base call's answer fills, for later calls to find."""
        if call.adapter is not None:
            return []
        # The last token is never computed: it is only the answer's.
        row = self.rows[call.turn]
        whole = (row.input_tokens + row.output_tokens - 1) // call.block_tokens
        return self._conversation(call.turn, None)[len(call.keys) : whole]

    def end_turn(self, turn: int) -> None:
        """Free what was kept for a turn's calls."""
        self._turn_keys.pop(turn, None)

    def _call(self, turn: int, number: int, arrival_s: float, adapter: str | None, kind: Kind) -> SimulatedCall:
        row, settings = self.rows[turn], self.settings
        added = row.output_tokens + settings.invocation_tokens if adapter else 0
        return SimulatedCall(
            request=turn * (settings.evaluators + 1) + number,
            arrival_s=arrival_s,
            session=f"{row.session}.{settings.seed}",
            adapter=adapter,
            kind=kind,
            prompt_tokens=row.input_tokens + added,
            output_tokens=settings.evaluation_tokens if adapter else row.output_tokens,
            block_tokens=settings.block_tokens,
            key_source=partial(self._keys, turn, adapter, adapter if kind == "lora" else None, kind != "base"),
            content_source=partial(self._keys, turn, adapter, None, False),
            salted_source=partial(self._keys, turn, adapter, adapter, True),
            turn=turn,
        )

    def _keys(self, turn: int, adapter: str | None, chain_adapter: str | None, is_marked: bool) -> list[BlockKey]:
        """Return a prompt's keys.

        Args:
            turn: whose conversation.
            adapter: None for the base turn's own prompt; else the conversation, answer and invocation.
            chain_adapter: the adapter that is in each block from the first on.
            is_marked: whether the blocks with the invocation have the adapter in them.
        """
        row, block = self.rows[turn], self.settings.block_tokens
        conversation = self._conversation(turn, chain_adapter)
        if adapter is None:
            return conversation[: row.input_tokens // block]
        total = row.input_tokens + row.output_tokens + self.settings.invocation_tokens
        tail = total // block - len(conversation)
        parent = conversation[-1] if conversation else self._root(chain_adapter)
        marked = b"\1" if is_marked else b"\0"
        return conversation + _digest(parent, b"invocation" + marked + adapter.encode(), tail)

    def _conversation(self, turn: int, adapter: str | None) -> list[BlockKey]:
        """Return the keys of the whole blocks of a turn's prompt and answer."""
        if adapter is None and turn in self._turn_keys:
            return self._turn_keys[turn]
        row, block = self.rows[turn], self.settings.block_tokens
        each = ID_TOKENS // block
        keys: list[BlockKey] = []
        parent = self._root(adapter)
        left = row.input_tokens // block
        for block_id in row.ids:
            part = _digest(parent, block_id.to_bytes(8, "big"), min(each, left))
            keys += part
            parent = part[-1] if part else parent
            left -= len(part)
        answered = (row.input_tokens + row.output_tokens) // block - len(keys)
        keys += _digest(parent, b"answer" + turn.to_bytes(8, "big"), answered)
        if adapter is None:
            self._turn_keys[turn] = keys
        return keys

    def _root(self, adapter: str | None) -> BlockKey:
        root = self._roots.get(adapter)
        if root is None:
            name = f"{self.settings.seed}-" if adapter is None else f"{self.settings.seed}+{adapter}"
            root = self._roots[adapter] = hashlib.blake2b(name.encode(), digest_size=KEY_BYTES).digest()
        return root

    def _evaluators(self, session: str) -> list[tuple[str, Kind]]:
        settings = self.settings
        chooser = random.Random(f"evaluators {settings.seed} {session}")  # noqa: S311
        exact = settings.evaluators * settings.lora_share
        loras = round(exact)
        if abs(exact - loras) > 0.02:
            loras = int(exact) + (chooser.random() < exact - int(exact))
        return [
            *_draw(chooser, "alora", settings.evaluators - loras, settings.adapters, settings.adapter_skew),
            *_draw(chooser, "lora", loras, settings.adapters, settings.adapter_skew),
        ]


def _draw(chooser: random.Random, kind: Kind, count: int, adapters: int, skew: float) -> list[tuple[str, Kind]]:
    drawn: list[tuple[str, Kind]] = []
    while len(drawn) < count:
        some = _distinct(chooser, min(count - len(drawn), adapters), adapters, skew)
        drawn += [(f"{kind}-{number}", kind) for number in some]
    return drawn


def _distinct(chooser: random.Random, count: int, adapters: int, skew: float) -> list[int]:
    if skew <= 0:
        return chooser.sample(range(adapters), count)
    found: dict[int, None] = {}
    while len(found) < count:
        found[chooser.choices(range(adapters), cum_weights=_zipf(adapters, skew))[0]] = None
    return list(found)


@lru_cache(maxsize=16)
def _zipf(adapters: int, skew: float) -> list[float]:
    """Return the weights of ranks 1 to ``adapters``, each added to those before it."""
    return list(accumulate((1 + rank) ** -skew for rank in range(adapters)))


def _digest(parent: BlockKey, content: bytes, count: int) -> list[BlockKey]:
    """Return ``count`` keys chained onto ``parent``; fewer are the first of more."""
    if count <= 0:
        return []
    data = hashlib.shake_128(parent + content).digest(KEY_BYTES * count)
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]
