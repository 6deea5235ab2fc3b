"""What a replica's engine holds, in our block keys, kept up by the engine's own events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, KeySpace
from aloraserve.blocks.events import EngineHash


@dataclass(slots=True)
class MirrorDrops:
    """How many stored events were passed over, by why: their blocks are held but nobody is told."""

    unknown_parent: int = 0
    unknown_adapter: int = 0
    wrong_token_count: int = 0


@dataclass(slots=True)
class _Copies:
    """An engine hash's key and how many physical copies the engine has."""

    key: BlockKey
    count: int = 1


@dataclass(slots=True)
class _Held:
    """A key's parent in its chain and how many engine hashes stand for it."""

    parent: BlockKey
    count: int = 1


@dataclass(frozen=True, slots=True)
class Delta:
    """Keys that came to be held and keys that stopped being held."""

    stored: tuple[BlockKey, ...] = ()
    removed: tuple[BlockKey, ...] = ()


@dataclass(slots=True)
class Mirror:
    """Maps engine hashes to block keys.

    An engine reports each physical copy: a hash stored twice is gone only when removed twice. Two hashes may
    also stand for one key. Both are counted, and a key is reported only when it comes to be held or stops
    being so.

    Args:
        keyspace: where our keys come from.
        adapter_salts: an adapter's salt (:func:`~aloraserve.blocks.keys.adapter_salt`) by name, None if
            unknown.
        drops: what was passed over.
    """

    keyspace: KeySpace
    adapter_salts: Callable[[str], bytes | None]
    drops: MirrorDrops = field(default_factory=MirrorDrops)
    _copies: dict[EngineHash, _Copies] = field(default_factory=dict)
    _held: dict[BlockKey, _Held] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many keys are held."""
        return len(self._held)

    def apply(self, event: EngineEvent) -> Delta:
        """Take in one event and return what changed; an event that cannot be placed changes nothing."""
        if isinstance(event, BlocksStored):
            return Delta(stored=tuple(self._store(event)))
        if isinstance(event, BlocksRemoved):
            return Delta(removed=tuple(self._remove(event.hashes)))
        if isinstance(event, BlocksCleared):
            return Delta(removed=self.clear())
        raise TypeError(f"{event!r} is no engine event")

    def overlap(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading keys are held."""
        return next((index for index, key in enumerate(keys) if key not in self._held), len(keys))

    def clear(self) -> tuple[BlockKey, ...]:
        """Forget everything and return the keys that were held."""
        removed = tuple(self._held)
        self._copies.clear()
        self._held.clear()
        return removed

    def snapshot(self) -> list[BlockKey]:
        """Return every key held, each after its parent if that is held too."""
        ordered: dict[BlockKey, None] = {}
        for key in self._held:
            for ancestor in reversed(self._unlisted_chain(key, ordered)):
                ordered[ancestor] = None
        return list(ordered)

    def _unlisted_chain(self, key: BlockKey, ordered: dict[BlockKey, None]) -> list[BlockKey]:
        chain: list[BlockKey] = []
        while key in self._held and key not in ordered:
            chain.append(key)
            key = self._held[key].parent
        return chain

    def _store(self, event: BlocksStored) -> Iterator[BlockKey]:
        placed = self._place(event)
        if placed is None:
            return
        parent, salt = placed
        keys = self.keyspace.extend(parent, event.token_ids, salt, event.base_tokens)
        for engine_hash, key in zip(event.hashes, keys, strict=True):
            if self._add(engine_hash, key, parent):
                yield key
            parent = key

    def _place(self, event: BlocksStored) -> tuple[BlockKey, bytes] | None:
        """Return the key and the salt that the event's chain goes on from, None if they are unknown."""
        if len(event.token_ids) != len(event.hashes) * self.keyspace.block_tokens:
            self.drops.wrong_token_count += 1
            return None
        salt = b"" if event.adapter is None else self.adapter_salts(event.adapter)
        if salt is None:
            self.drops.unknown_adapter += 1
            return None
        if event.parent is None:
            return self.keyspace.root(event.cache_salt), salt
        parent = self._copies.get(event.parent)
        if parent is None:
            self.drops.unknown_parent += 1
            return None
        return parent.key, salt

    def _add(self, engine_hash: EngineHash, key: BlockKey, parent: BlockKey) -> bool:
        """Count one more copy and return whether its key was not held before."""
        copies = self._copies.get(engine_hash)
        if copies is not None:
            copies.count += 1
            return False
        self._copies[engine_hash] = _Copies(key)
        held = self._held.get(key)
        if held is not None:
            held.count += 1
            return False
        self._held[key] = _Held(parent)
        return True

    def _remove(self, hashes: Sequence[EngineHash]) -> Iterator[BlockKey]:
        for engine_hash in hashes:
            key = self._drop(engine_hash)
            if key is not None:
                yield key

    def _drop(self, engine_hash: EngineHash) -> BlockKey | None:
        """Count one copy less and return its key if that is held no more."""
        copies = self._copies.get(engine_hash)
        if copies is None:
            return None
        copies.count -= 1
        if copies.count:
            return None
        del self._copies[engine_hash]
        held = self._held[copies.key]
        held.count -= 1
        if held.count:
            return None
        del self._held[copies.key]
        return copies.key
