"""The directory's contract: which live replica holds which blocks.

Invariants, for every backend:

- The directory is advisory. What it says may be stale; it costs time, never an answer.
- A holding counts only while its replica's lease lives and names the same incarnation.
- What a replica reports is *prefix-closed*: it names a block only while it has every block before it. Backends
  rely on it: they look at one block of a run and take those before it as held too. While a change is on its way, or
  after a node was evicted, a lookup says something between what the replica had and what it has, or less.
- ``lookup`` takes one round trip, two for long prompts, whatever the number of replicas, and reads O(log n) blocks for
  each place at which holders stop. It looks at no more than ``MAX_LOOKUP_BLOCKS`` and writes nothing. Leases, loads and
  claims come from a view that the object keeps in the background from its first lookup on: what others do shows within
  a fraction of a second, what was done through the same object at once.
- A claim takes as much of the backend for a long prompt as for a short one.
- Nothing grows without bound: leases, claims and nodes expire by themselves; what dead and earlier incarnations
  left is freed by :meth:`Directory.reclaim`, a bounded part a call. A replica that was silent for ``FORGET_S`` may
  lose its holdings: it republishes them when it comes back.
- Every method raises :class:`~aloraserve.errors.DirectoryUnavailableError` when the backend is gone or slower
  than its timeout, and nothing else for that reason. Nothing is retried inside.

Concurrency: any number of gateways and replicas call at once. Each method is atomic for the blocks of one chain;
``apply`` calls of one replica are made in order by that replica alone. Times are the backend's own clock, so that
callers' clocks do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from aloraserve.blocks import BlockKey
from aloraserve.blocks.keys import KEY_BYTES, KeySpace

MAX_LOOKUP_BLOCKS = 65_536
"""Covers prompts of 1,048,576 tokens with blocks of 16."""
LEASE_TTL_S = 2.0
CLAIM_TTL_S = 10.0
LEAVING_TTL_S = 10.0
NODE_TTL_S = 6 * 3600
FORGET_S = 600.0
MAX_APPLY_BLOCKS = 4096
MAX_FORMER = 4
"""Earlier incarnations that an apply strikes off at most."""
MAX_SETTLED = 4096
RUN_BLOCKS = 32
"""Blocks a run; all gateways and replicas of a fleet agree on it."""
MAX_TIER = 200
FAST_TIER = 0
"""The tier whose blocks an engine can use as they are (GPU memory, or a CPU engine's own); others are copied first."""


class Holding(NamedTuple):
    """One block that a replica has, placed in its chain.

    Args:
        key: of the block.
        anchor: the key that names the block's run, see :func:`anchor`.
        head: the key of the chain's first block.
        tier: 0 where the engine computes; the slower, the higher, up to 200.
    """

    key: BlockKey
    anchor: BlockKey
    head: BlockKey
    tier: int = FAST_TIER


def anchor(keys: Sequence[BlockKey], index: int) -> BlockKey:
    """Return what names the run of block ``index``: the last key before the run, for the first run its first key.

    Keys are chained, so chains that share the blocks before a run share its name, and only they do.
    """
    start = index // RUN_BLOCKS * RUN_BLOCKS
    return keys[max(start - 1, 0)]


def place(keys: Sequence[BlockKey], *, tier: int = FAST_TIER) -> list[Holding]:
    """Return the holdings of a chain from its first block on."""
    return [Holding(key, anchor(keys, index), keys[0], tier) for index, key in enumerate(keys)]


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Load that a replica reports of its engine, several times per second. Zero means "not known", except for counts.

    Args:
        running: requests whose first token is out.
        waiting: accepted requests whose first token is not.
        queued_prefill_tokens: tokens of those that are neither prefilled nor cached.
        kv_usage: share of KV blocks that running requests use, 0 to 1.
        prefill_tokens_per_s: what its engine was last seen to do, for people.
        max_requests: requests that it runs at once.
        queued_prefill_s: how long its engine will take for ``queued_prefill_tokens``.
        prefill_fixed_s: see :class:`~aloraserve.routing.prefill_model.PrefillModel`, like the next two.
        prefill_s_per_token: linear part.
        prefill_s_per_square_token: quadratic part.
        decode_step_s: one decoding step of the batch as it is.
        kv_tokens: tokens that its KV cache has room for.
        running_tokens: tokens of accepted requests, prompt and answer so far.
        adapter_slots: distinct adapters that may run at once (``max_loras``).
        adapter_load_s: how long loading an adapter takes that is not resident.
        service_s: how long a request keeps its slot, typically.
        step_tokens: tokens that one step computes at most.
        prefill_samples: prefills that its model rests on.
        inter_token_s: mean time between two tokens of its running answers lately, steps with prompts included.
        ageing: its engine begins the waiting calls by their numbers, which age at this rate
            (:class:`~aloraserve.routing.scheduling.Scheduling`); 0: in the order in which they came.
        queue_profile: ``queued_prefill_s`` by the calls' numbers, see :mod:`aloraserve.routing.queue_profile`.
        decode_fixed_s: the part of ``decode_step_s`` that any number of answers takes.
    """

    running: int = 0
    waiting: int = 0
    queued_prefill_tokens: int = 0
    kv_usage: float = 0.0
    prefill_tokens_per_s: float = 0.0
    max_requests: int = 0
    queued_prefill_s: float = 0.0
    prefill_fixed_s: float = 0.0
    prefill_s_per_token: float = 0.0
    prefill_s_per_square_token: float = 0.0
    decode_step_s: float = 0.0
    kv_tokens: int = 0
    running_tokens: int = 0
    adapter_slots: int = 0
    adapter_load_s: float = 0.0
    service_s: float = 0.0
    step_tokens: int = 0
    prefill_samples: int = 0
    inter_token_s: float = 0.0
    ageing: float = 0.0
    queue_profile: tuple[float, ...] = ()
    decode_fixed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A lease's content: who is alive, as which start, doing what.

    Args:
        replica: the replica's id in the fleet.
        incarnation: its start number; holdings of another incarnation never count.
        label: a short name for people.
        load: see :class:`ReplicaLoad`.
        resident: keys (:attr:`~aloraserve.adapters.base.AdapterVersion.key`) of the adapter versions that are loaded.
        held_blocks: how many blocks the replica's mirror has, for people.
        active_adapters: keys of those of accepted requests.
        slotted: of the loaded ones, those in a slot of the engine; the others are in the host's memory.
        pinned: of the loaded ones, those that stay.
        is_leaving: it takes no new calls, and what it holds is of no more use: what the directory says, by
            :meth:`Directory.mark_leaving`, whatever the replica publishes.
        saved_s: seconds of prefill that its cache saved lately, per second, the last ones weighing most.
        saved_elsewhere_s: of those, what was saved on prefixes that another replica holds, too.
    """

    replica: str
    incarnation: str
    label: str = ""
    load: ReplicaLoad = field(default_factory=ReplicaLoad)
    resident: tuple[str, ...] = ()
    held_blocks: int = 0
    active_adapters: tuple[str, ...] = ()
    slotted: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    is_leaving: bool = False
    saved_s: float = 0.0
    saved_elsewhere_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One live replica as ``lookup`` saw it.

    Args:
        state: its last published state.
        held_blocks: leading blocks of the prompt that it holds, in any tier.
        claimed_blocks: leading blocks that it holds or is about to have (never fewer than ``held_blocks``), at least.
        claimed_tokens: prefill tokens claimed for it that its published load does not include yet.
        fast_blocks: leading blocks that it holds in :data:`FAST_TIER` (never more than ``held_blocks``).
        claims: how many claims those tokens belong to.
    """

    state: ReplicaState
    held_blocks: int = 0
    claimed_blocks: int = 0
    claimed_tokens: int = 0
    fast_blocks: int = 0
    claims: int = 0


class Epoch(NamedTuple):
    """One life of a part of the backend's holdings.

    Args:
        content: changes when the part lost everything (a flush, a restart without data).
        copy: changes when it may lack its last changes (a restart with data, a fail-over).
    """

    content: str
    copy: str = ""


class Directory(Protocol):
    """All holdings of one fleet. See the module's docstring for what holds everywhere."""

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        """Agree on the key space: the first to come sets it, and it stays while somebody joins again in time.

        Replicas join before they start their engine, and again with their heartbeats. Gateways only compare.

        Args:
            space: the caller's.
            ttl_s: how long it stays if nobody joins again; with 0 it is compared with the fleet's, and not set.

        Raises:
            KeySpaceMismatchError: the fleet's differs; names each part that does, both values.
        """
        ...

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        """Grant or renew the replica's lease and replace its state.

        Args:
            state: what to publish.
            ttl_s: how long the lease lives.
            settled: ids of claims whose calls reached the replica: their tokens are part of the load now, or done
                with. At most ``MAX_SETTLED``; unknown ones are ignored.
        """
        ...

    async def retire(self, replica: str) -> None:
        """Drop the replica's lease now; its holdings stop counting at once."""
        ...

    async def mark_leaving(self, replica: str, *, ttl_s: float = LEAVING_TTL_S) -> None:
        """Have every lookup and every state say that the replica is leaving, whether or not it has a lease.

        Whoever chose it renews the mark until it is gone: a mark whose writer died expires, and the replica is one
        like the others again. Marks survive what the replica publishes.

        Args:
            replica: that is to be stopped.
            ttl_s: how long the mark lives; 0 takes it back.
        """
        ...

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
        fence: int = 0,
        former: Sequence[str] = (),
    ) -> Set[str]:
        """Record that the replica has the ``stored`` blocks and no longer has the ``removed`` ones.

        Idempotent: the same call again changes nothing; a block stored again may have another tier. Callers split
        long lists; at most ``MAX_APPLY_BLOCKS`` a call, each block in one of the two lists. A lease is not needed
        first; without one the holdings do not count yet. Stored blocks renew their node's life.

        Args:
            replica: who.
            incarnation: which start of it.
            stored: blocks that it has.
            removed: blocks that it had.
            fence: a call with a smaller one than an earlier call of that incarnation for chains of the same part (see
                :meth:`part`) changes nothing. So a call that was given up, and is made again with a greater one, cannot
                take effect later.
            former: earlier incarnations of the replica, whose holdings of these blocks are dropped; at most
                ``MAX_FORMER``.

        Returns:
            The parts (see :meth:`part`) that had nothing of this incarnation, or freed some of it. For other than its
            first call there, what it holds in them is to be applied again.

        Raises:
            ValueError: more than ``MAX_APPLY_BLOCKS`` holdings, or one of their keys is not 16 bytes long, or a tier
                is not 0 to 200, or more than ``MAX_FORMER`` earlier incarnations.
        """
        ...

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        """Return every live replica with its contiguous overlap with ``keys``, sorted by replica id.

        Keys beyond ``MAX_LOOKUP_BLOCKS`` are not looked at.
        """
        ...

    async def claim(
        self,
        claim_id: str,
        replica: str,
        incarnation: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
        unseen_from: int | None = None,
    ) -> bool:
        """Record that ``replica`` is about to have ``keys`` and has ``tokens`` more to prefill.

        ``tokens`` count in lookups until the replica publishes the claim as settled, the claim is withdrawn, or the
        replica publishes after ``ttl_s``. The keys count until ``ttl_s`` passes or withdrawal, and as long as that
        incarnation lives; where a prompt leaves their chain before its end, they may count to whole runs only
        (:mod:`aloraserve.directory.claimed_blocks`). When this returns, lookups of the same object count the claim.

        Args:
            claim_id: the call's id in the engine.
            replica: who.
            incarnation: which start of it.
            keys: of the prompt.
            tokens: what it has to prefill for it.
            ttl_s: how long the claim lives.
            unseen_from: the first block that, as the caller knows from its lookup, no replica has or was about to
                have. If another live replica was claimed for it within the last ``ttl_s``, nothing is recorded, and
                lookups count that claim from now on: of any number of gateways with the same new prefix one claims
                first, and the others learn of it.

        Returns:
            False if nothing was recorded because of ``unseen_from``.
        """
        ...

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        """Take a claim back: its call failed before the blocks came to be. Unknown ids are ignored."""
        ...

    async def states(self) -> list[ReplicaState]:
        """Return the state of every live replica, sorted by replica id."""
        ...

    def part(self, head: BlockKey) -> str:
        """Return which part of the backend a chain that begins with that key lies in."""
        ...

    async def epoch(self) -> Mapping[str, Epoch]:
        """Return the epoch of each part of the backend: it changes whenever the part may have lost holdings.

        Replicas publish again what they hold there. A part that moves to another server keeps its epoch.
        """
        ...

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        """Free what incarnations that are gone left behind, at most about ``max_fields`` holdings; return how many.

        What a call costs is what it frees, whatever else lies there. Safe to call from everywhere at once and at any
        rate: backends bound the work of the fleet's calls together.
        """
        ...

    async def ping(self) -> None:
        """Raise if the backend does not answer."""
        ...

    async def close(self) -> None:
        """Release connections. Further calls are undefined."""
        ...


def check_apply(stored: Sequence[Holding], removed: Sequence[Holding], former: Sequence[str]) -> None:
    """Raise ValueError unless the holdings are ones that :meth:`Directory.apply` accepts."""
    count = len(stored) + len(removed)
    if count > MAX_APPLY_BLOCKS:
        raise ValueError(f"{count} keys in one apply; at most {MAX_APPLY_BLOCKS} are accepted")
    if len(former) > MAX_FORMER:
        raise ValueError(f"{len(former)} earlier incarnations in one apply; at most {MAX_FORMER} are accepted")
    for holdings in (stored, removed):
        for key, name, head, tier in holdings:
            if not len(key) == len(name) == len(head) == KEY_BYTES:
                wrong = next(part for part in (key, name, head) if len(part) != KEY_BYTES)
                raise ValueError(f"block key {wrong.hex()} has {len(wrong)} bytes; {KEY_BYTES} are needed")
            if not 0 <= tier <= MAX_TIER:
                raise ValueError(f"tier is {tier}; 0 to {MAX_TIER} are accepted")
