"""The directory's contract: which live replica holds which blocks.

Invariants, for every backend:

- The directory is advisory. What it says may be stale; it costs time, never an answer.
- A holding counts only while its replica's lease lives and names the same incarnation.
- ``lookup`` is one round trip, whatever the number of replicas, and looks at no more than
  ``MAX_LOOKUP_BLOCKS``.
- Nothing grows without bound: leases, claims and block nodes expire by themselves, and a replica that neither
  published nor applied anything for ``FORGET_S`` may lose its holdings: it republishes them when it comes
  back.
- Every method raises :class:`~aloraserve.errors.DirectoryUnavailableError` when the backend is gone or slower
  than its timeout, and nothing else for that reason. Nothing is retried inside.

Concurrency: any number of gateways and replicas call at once. Each method is atomic; ``apply`` calls of one
replica are made in order by that replica alone. Times are the backend's own clock, so that callers' clocks do
not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aloraserve.blocks import BlockKey
from aloraserve.blocks.keys import KEY_BYTES

MAX_LOOKUP_BLOCKS = 8192
LEASE_TTL_S = 2.0
CLAIM_TTL_S = 10.0
NODE_TTL_S = 6 * 3600
FORGET_S = 600.0
MAX_APPLY_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica says of its engine, several times a second.

    ``queued_prefill_tokens`` are tokens of accepted requests that are not yet prefilled and not cached;
    ``prefill_tokens_per_s`` is what its engine was last seen to do; ``kv_usage`` is a share from 0 to 1.
    """

    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    kv_usage: float = 0.0
    prefill_tokens_per_s: float = 0.0
    max_requests: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A lease's content: who is alive, as which start, doing what.

    Args:
        replica: the replica's id in the fleet.
        incarnation: its start number; holdings of another incarnation never count.
        label: a short name for people.
        load: see :class:`ReplicaLoad`.
        resident: names of the adapters loaded in the engine.
        held_blocks: how many blocks the replica's mirror has, for people.
    """

    replica: str
    incarnation: str
    label: str = ""
    load: ReplicaLoad = field(default_factory=ReplicaLoad)
    resident: tuple[str, ...] = ()
    held_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live replica as ``lookup`` saw it.

    Args:
        state: its last published state.
        held_blocks: leading blocks of the prompt that it holds.
        claimed_blocks: leading blocks that it holds or is about to have (never fewer than ``held_blocks``).
        claimed_tokens: prefill tokens claimed for it since its state was published.
    """

    state: ReplicaState
    held_blocks: int = 0
    claimed_blocks: int = 0
    claimed_tokens: int = 0


class Directory(Protocol):
    """All holdings of one key space. See the module's docstring for what holds everywhere."""

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S) -> None:
        """Grant or renew the replica's lease and replace its state."""
        ...

    async def retire(self, replica: str) -> None:
        """Drop the replica's lease now; its holdings stop counting at once."""
        ...

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[BlockKey] = (),
        removed: Sequence[BlockKey] = (),
    ) -> None:
        """Record that the replica has the ``stored`` blocks and no longer has the ``removed`` ones.

        Idempotent: the same call again changes nothing. Callers split long lists; at most 4096 keys a call,
        each in one of the two lists. A lease is not needed first; without one the holdings do not count yet.

        Raises:
            ValueError: more than ``MAX_APPLY_BLOCKS`` keys, or a key that is not 16 bytes long.
        """
        ...

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        """Return every live replica with its contiguous overlap with ``keys``, sorted by replica id.

        One round trip. Keys beyond ``MAX_LOOKUP_BLOCKS`` are not looked at.
        """
        ...

    async def claim(
        self,
        claim_id: str,
        replica: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
    ) -> None:
        """Record that ``replica`` is about to have ``keys`` and has ``tokens`` more to prefill.

        ``tokens`` count in lookups until the replica next publishes its state (which then includes them), the
        claim is withdrawn, or ``ttl_s`` passes; the keys count until ``ttl_s`` passes or withdrawal. A key
        that the replica holds when the claim is made needs no mark, so it stops counting if it is evicted
        meanwhile. Keys beyond ``MAX_LOOKUP_BLOCKS`` are not marked.
        """
        ...

    async def withdraw(self, claim_id: str, replica: str, keys: Sequence[BlockKey]) -> None:
        """Take a claim back: its call failed before the blocks came to be. Unknown ids are ignored."""
        ...

    async def states(self) -> list[ReplicaState]:
        """Return the state of every live replica, sorted by replica id."""
        ...

    async def epoch(self) -> str:
        """Return a token that changes whenever the backend may have lost its holdings (restart, flush).

        Replicas republish all that they hold when it changes.
        """
        ...

    async def ping(self) -> None:
        """Raise if the backend does not answer."""
        ...

    async def close(self) -> None:
        """Release connections. Further calls are undefined."""
        ...


def check_apply(stored: Sequence[BlockKey], removed: Sequence[BlockKey]) -> None:
    """Raise ValueError unless the keys are ones that :meth:`Directory.apply` accepts."""
    count = len(stored) + len(removed)
    if count > MAX_APPLY_BLOCKS:
        raise ValueError(f"{count} keys in one apply; at most {MAX_APPLY_BLOCKS} are accepted")
    for key in (*stored, *removed):
        if len(key) != KEY_BYTES:
            raise ValueError(f"block key {key.hex()} has {len(key)} bytes; {KEY_BYTES} are needed")
