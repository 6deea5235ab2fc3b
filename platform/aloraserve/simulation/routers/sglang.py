"""SGLang's gateway, policy ``cache_aware``: one tree of the prompts' text for all adapters.

Source: sgl-project/sglang, ``sgl-model-gateway/src/policies/cache_aware.rs`` at commit 053b63ff26df and ``tree.rs`` at
03744dbedc69; defaults of its launcher, ``bindings/python/sglang_router/router_args.py`` at 0c02081f1749. An
older ``cache_aware.rs`` (b93974f140de) chooses alike. The Rust type's own defaults, used where the launcher is not, are
0.5, 32, 1.1 and 10,000 characters.

Formula, with a replica's requests in flight as its load: if ``max - min > 64`` and ``max > 1.5 * min``, the least
loaded replica. Else the longest prefix of the prompt that *any* replica was sent: if it is more than 0.3 of it, the
replica that the tree names for its end, which is the one that was sent it first; if not, the least loaded. (The file's
introduction says "smallest tree" there; its code takes the load.) The prompt then goes into the tree for the chosen
one. Load does not break ties between replicas with the same prefix.

Adapters: a tree for each base model; the text in it has no adapter: *blind*.

Defaults: ``cache_threshold`` 0.3, ``balance_abs_threshold`` 64, ``balance_rel_threshold`` 1.5, 2^26 characters of tree
for each replica.

Not reproduced: characters (blocks of content stand for them); which of several replicas a node names after its first
one lost it to eviction (here the node goes when all that remember it do; after the loss of a replica, the next to be
sent that prefix takes over); 2^26 characters (about 17 million tokens) a replica: the tree is bounded by a multiple of
the fleet's KV cache, least recently sent first.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.prefix_index import leading_blocks, tree_blocks


class SGLang:
    """See the module's docstring and :class:`~aloraserve.simulation.routers.formula.Formula`.

    Args:
        seed: unused; the original draws no lots while a tree exists.
        fleet: as it starts.
        cache_threshold: share of the prompt, 0 to 1.
        balance_abs_threshold: difference of loads, in requests.
        balance_rel_threshold: ratio of loads.
    """

    name = "sglang"

    def __init__(
        self,
        seed: int,
        fleet: VisibleFleet,
        *,
        cache_threshold: float = 0.3,
        balance_abs_threshold: int = 64,
        balance_rel_threshold: float = 1.5,
    ) -> None:
        self._cache_threshold = cache_threshold
        self._balance_abs_threshold = balance_abs_threshold
        self._balance_rel_threshold = balance_rel_threshold
        self._tree = _Tree(len(fleet.replicas), tree_blocks(fleet))

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the replica that the module's formula names, and put the prompt into the tree for it."""
        keys = call.content_keys
        loads = [fleet.replicas[replica].in_flight for replica in fleet.alive]
        chosen = fleet.alive[loads.index(min(loads))]
        if not self._imbalanced(loads):
            depth, first = self._tree.match(keys)
            if depth > self._cache_threshold * len(keys) and first in fleet.alive:
                chosen = first
        self._tree.insert(keys, chosen)
        return chosen

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Nothing: the policy takes no KV events."""

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing."""

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Nothing."""

    def lost(self, replica: int, now_s: float) -> None:
        """Drop the replica from the tree."""
        self._tree.drop(replica)

    def _imbalanced(self, loads: Sequence[int]) -> bool:
        most, least = max(loads), min(loads)
        return most - least > self._balance_abs_threshold and most > least * self._balance_rel_threshold


class _Tree:
    """For each block the replica that was sent it first, in two generations (see ``PrefixIndex`` for those).

    A replica is written as a ticket: its number plus a multiple of the number of replicas that grows with each loss, so
    that what it owned before it was lost is known as void without a search.
    """

    def __init__(self, replicas: int, max_blocks: int) -> None:
        self._young: dict[BlockKey, int] = {}
        self._old: dict[BlockKey, int] = {}
        self._half = max_blocks // 2
        self._tickets = list(range(replicas))
        self._any_lost = False

    def match(self, keys: Sequence[BlockKey]) -> tuple[int, int]:
        """Return how many leading blocks any live replica was sent, and which of them is named; -1 with 0 blocks."""
        depth = max(leading_blocks(keys, self._young), leading_blocks(keys, self._old))
        while depth:
            ticket = self._ticket(keys[depth - 1])
            if ticket is not None:
                return depth, ticket % len(self._tickets)
            depth -= 1
        return 0, -1

    def insert(self, keys: Sequence[BlockKey], replica: int) -> None:
        """Record that the replica was sent a prompt; blocks of it beyond half the bound are left out."""
        keys = keys[: self._half]
        young = leading_blocks(keys, self._young)
        if len(self._young) + len(keys) - young > self._half:
            self._old, self._young, young = self._young, {}, 0
        ticket = self._tickets[replica]
        if self._any_lost:
            self._young.update((key, ticket if (own := self._ticket(key)) is None else own) for key in keys)
            return
        known = max(young, leading_blocks(keys, self._old))
        self._young.update((key, self._old[key]) for key in keys[young:known])
        self._young.update(dict.fromkeys(keys[known:], ticket))

    def drop(self, replica: int) -> None:
        """Void all that the replica was sent."""
        self._tickets[replica] += len(self._tickets)
        self._any_lost = True

    def _ticket(self, key: BlockKey) -> int | None:
        ticket = self._young.get(key)
        if ticket is None:
            ticket = self._old.get(key)
        if ticket is None or self._tickets[ticket % len(self._tickets)] != ticket:
            return None
        return ticket
