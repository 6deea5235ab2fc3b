"""Blocks that a replica's engine holds, in our keys, kept up by the engine's own events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aloraserve.blocks import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, KeySpace
from aloraserve.blocks.events import EngineHash
from aloraserve.directory.base import FAST_TIER, RUN_BLOCKS, Holding

TIERS = {"GPU": FAST_TIER, "CPU": 1}
"""vLLM calls the memory that its engine computes in "GPU", also on a CPU."""
OTHER_TIER = 2
"""Any other medium: disks and stores, all of them slow."""
_NO_COPIES = (0, 0, 0)


@dataclass(slots=True)
class MirrorDrops:
    """How many stored events were passed over, by why: their blocks are held but not reported."""

    unknown_parent: int = 0
    unknown_adapter: int = 0
    wrong_token_count: int = 0


@dataclass(slots=True)
class _Copies:
    """An engine hash's key and how many physical copies the engine has of it in each tier."""

    key: BlockKey
    counts: tuple[int, ...]


@dataclass(slots=True)
class _Held:
    """A key's place in its chain, the copies that all its engine hashes have, and the tier that was reported."""

    parent: BlockKey
    index: int
    anchor: BlockKey
    head: BlockKey
    counts: tuple[int, ...] = _NO_COPIES
    reported: int | None = None

    @property
    def tier(self) -> int:
        """The fastest tier that has it."""
        return next(tier for tier, count in enumerate(self.counts) if count)


class Delta(NamedTuple):
    """Blocks that came to be held, or changed their tier, and blocks that stopped being held."""

    stored: tuple[Holding, ...] = ()
    removed: tuple[Holding, ...] = ()


@dataclass(slots=True)
class Mirror:
    """Maps engine hashes to block keys.

    An engine reports each physical copy: a hash stored twice is gone only when removed twice. Two hashes may
    also stand for one key. Both are counted. What is reported is prefix-closed, as the directory asks: a block whose
    chain has a gap is of no use to any prompt, and is reported only once the gap is filled.

    Args:
        keyspace: where our keys come from.
        adapter_salts: an adapter's salt by its name in events, None if unknown
            (:func:`~aloraserve.blocks.keys.version_salt`).
        drops: what was passed over.
    """

    keyspace: KeySpace
    adapter_salts: Callable[[str], bytes | None]
    drops: MirrorDrops = field(default_factory=MirrorDrops)
    _copies: dict[EngineHash, _Copies] = field(default_factory=dict)
    _held: dict[BlockKey, _Held] = field(default_factory=dict)
    # Mostly one: a set each would be most of the mirror's memory.
    _children: dict[BlockKey, BlockKey | set[BlockKey]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._held)

    def apply(self, event: EngineEvent) -> Delta:
        """Take in one event and return what changed; an event that cannot be placed changes nothing."""
        if isinstance(event, BlocksStored):
            return Delta(stored=tuple(self._store(event)))
        if isinstance(event, BlocksRemoved):
            return self._remove(event)
        if isinstance(event, BlocksCleared):
            return Delta(removed=self.clear())
        raise TypeError(f"{event!r} is not an engine event")

    def overlap(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading keys are held."""
        return next((index for index, key in enumerate(keys) if key not in self._held), len(keys))

    def clear(self) -> tuple[Holding, ...]:
        """Forget everything and return what was held, as far as it was reported."""
        removed = tuple(self.snapshot())
        self._copies.clear()
        self._held.clear()
        self._children.clear()
        return removed

    def snapshot(self) -> list[Holding]:
        """Return everything that is reported as held, each block after those before it."""
        found = [(held.index, key, held) for key, held in self._held.items() if held.reported is not None]
        found.sort(key=lambda entry: entry[0])
        return [_holding(key, held) for _, key, held in found]

    def _store(self, event: BlocksStored) -> Iterator[Holding]:
        placed = self._place(event)
        if placed is None:
            return
        parent, origin, salt = placed
        tier = TIERS.get(event.tier, OTHER_TIER)
        keys = self.keyspace.extend(origin, event.token_ids, salt, event.base_tokens)
        for engine_hash, key in zip(event.hashes, keys, strict=True):
            yield from self._add(engine_hash, key, parent, tier)
            parent = key

    def _place(self, event: BlocksStored) -> tuple[BlockKey, BlockKey, bytes] | None:
        """Return the key of the block before the event's, what its chain goes on from, and the adapter's salt.

        None if they are unknown.
        """
        if len(event.token_ids) != len(event.hashes) * self.keyspace.block_tokens:
            self.drops.wrong_token_count += 1
            return None
        salt = b"" if event.adapter is None else self.adapter_salts(event.adapter)
        if salt is None:
            self.drops.unknown_adapter += 1
            return None
        if event.parent is None:
            root = self.keyspace.root(event.cache_salt)
            return root, root, salt
        parent = self._copies.get(event.parent)
        if parent is None:
            self.drops.unknown_parent += 1
            return None
        return parent.key, self.keyspace.salted(parent.key, event.cache_salt), salt

    def _add(self, engine_hash: EngineHash, key: BlockKey, parent: BlockKey, tier: int) -> Iterator[Holding]:
        """Count one more copy and yield what can be reported now: the block, and those that waited for it."""
        copies = self._copies.get(engine_hash)
        if copies is None:
            copies = self._copies[engine_hash] = _Copies(key, _NO_COPIES)
        copies.counts = _changed(copies.counts, tier, 1)
        held = self._held.get(copies.key)
        if held is None:
            held = self._held[key] = self._new(key, parent)
        held.counts = _changed(held.counts, tier, 1)
        yield from self._report(copies.key)

    def _new(self, key: BlockKey, parent: BlockKey) -> _Held:
        before = self._held.get(parent)
        if before is None:
            return _Held(parent, 0, anchor=key, head=key)
        index = before.index + 1
        siblings = self._children.get(parent)
        if siblings is None:
            self._children[parent] = key
        elif isinstance(siblings, set):
            siblings.add(key)
        else:
            self._children[parent] = {siblings, key}
        return _Held(parent, index, before.anchor if index % RUN_BLOCKS else parent, before.head)

    def _report(self, key: BlockKey) -> Iterator[Holding]:
        """Report a block if all before it are, and with it those that waited for it."""
        waiting = [key]
        while waiting:
            block = waiting.pop()
            held = self._held[block]
            if held.index and not self._is_reported(held.parent):
                continue
            was_reported, held.reported = held.reported, held.tier
            if was_reported == held.reported:
                continue
            yield _holding(block, held)
            if was_reported is None:
                waiting.extend(self._children_of(block))

    def _is_reported(self, key: BlockKey) -> bool:
        held = self._held.get(key)
        return held is not None and held.reported is not None

    def _children_of(self, key: BlockKey) -> tuple[BlockKey, ...]:
        children = self._children.get(key)
        if children is None:
            return ()
        return tuple(children) if isinstance(children, set) else (children,)

    def _remove(self, event: BlocksRemoved) -> Delta:
        tier = TIERS.get(event.tier, OTHER_TIER)
        stored: dict[BlockKey, Holding] = {}
        removed: dict[BlockKey, Holding] = {}
        for engine_hash in event.hashes:
            for holding, is_held in self._drop(engine_hash, tier):
                if is_held:
                    stored[holding.key] = holding
                else:
                    stored.pop(holding.key, None)
                    removed[holding.key] = holding
        return Delta(tuple(stored.values()), tuple(removed.values()))

    def _drop(self, engine_hash: EngineHash, tier: int) -> Iterator[tuple[Holding, bool]]:
        """Count one copy less; yield the block if its tier changed, or it and its descendants if it is gone."""
        copies = self._copies.get(engine_hash)
        if copies is None or not copies.counts[tier]:
            return
        key = copies.key
        copies.counts = _changed(copies.counts, tier, -1)
        if not any(copies.counts):
            del self._copies[engine_hash]
        held = self._held[key]
        held.counts = _changed(held.counts, tier, -1)
        if any(held.counts):
            for holding in self._report(key):
                yield holding, True
            return
        for holding in self._unreport(key):
            yield holding, False
        del self._held[key]
        self._forget_child(held.parent, key)

    def _unreport(self, key: BlockKey) -> Iterator[Holding]:
        """Take back the report of a block and of all that follow it."""
        waiting = [key]
        while waiting:
            block = waiting.pop()
            held = self._held[block]
            if held.reported is None:
                continue
            yield _holding(block, held)
            held.reported = None
            waiting.extend(self._children_of(block))

    def _forget_child(self, parent: BlockKey, key: BlockKey) -> None:
        children = self._children.get(parent)
        if children == key:
            del self._children[parent]
        elif isinstance(children, set):
            children.discard(key)
            if not children:
                del self._children[parent]


def _changed(counts: tuple[int, ...], tier: int, by: int) -> tuple[int, ...]:
    return (*counts[:tier], counts[tier] + by, *counts[tier + 1 :])


def _holding(key: BlockKey, held: _Held) -> Holding:
    return Holding(key, held.anchor, held.head, held.reported or FAST_TIER)
