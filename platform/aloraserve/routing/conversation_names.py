"""A name for each conversation that other conversations do not have, though they begin with the same prompt.

Prompts share what comes before the conversation: a system prompt, tool definitions, documents. Where many of them part,
that is over, and the next block is a conversation's own. The names of two gateways agree wherever both have seen
conversations part, and before either has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from aloraserve.blocks import BlockKey
from aloraserve.routing.base import Call

DEEP_BLOCKS = 32
"""A conversation's name before anybody saw it part from others: deep enough to be behind most system prompts."""
MANY = 16
"""So many distinct blocks after one block are other conversations, rather than one that was asked again."""
MANY_BITS = 14
"""So many of 64 bits are set on average by ``MANY`` distinct blocks: 64 * (1 - (63 / 64) ** 16)."""
EXPLORED_BLOCKS = 64
MAX_BLOCKS = 8192
MAX_KEYS = 1 << 15
MAX_BRANCHINGS = 512
_ROOT = b""


def plain_name(call: Call) -> bytes:
    """Return the name of a call of whose prefix nothing was learned.

    That is its session id if the client sends one, else the key of a deep block, or of its last one: keys are chained,
    so that one stands for all before it. Without any key no affinity can be kept and the prompt's length spreads
    calls.
    """
    if call.session is not None:
        return b"session\0" + call.session.encode("utf-8", "surrogatepass")
    if not call.keys:
        return b"%d" % call.prompt_tokens
    return call.keys[min(DEEP_BLOCKS, len(call.keys)) - 1]


class ConversationNames:
    """Learns from the calls of one gateway where conversations part. For one event loop.

    A call's name is the client's session id if it sends one; else the first key behind the last block that ``MANY``
    distinct blocks were seen to follow; else :func:`plain_name`. A turn that goes on with a conversation has the name
    of the turn before, whatever adapter it uses: of the blocks from an activation point on only those of one adapter
    are compared with each other.

    What is learned is a tree of the keys seen, without what is far behind the point where a prompt was last new: each
    call adds ``EXPLORED_BLOCKS`` keys at most. Keys of which no call made use for a while are forgotten: memory is
    bounded by twice ``max_keys``, about 200 bytes each. A call takes O(log blocks), and O(blocks) set operations when
    keys are new or about to be forgotten.

    Args:
        max_keys: see above.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._young = _Generation()
        self._old = _Generation()
        self._branchings: dict[bytes, int] = {}
        self._depths: list[int] = []

    def name(self, call: Call) -> bytes:
        """Learn from a call and return the name of its conversation."""
        if call.keys:
            self._learn(call)
        own = self._behind_branching(call) if call.session is None else b""
        return own or plain_name(call)

    def _behind_branching(self, call: Call) -> bytes:
        """Return the first key behind the last branching of many, empty if the prompt passes none."""
        keys = call.keys
        for depth in self._depths:
            if depth <= len(keys) and (node := _node(call, depth)) in self._branchings:
                self._branchings[node] = self._branchings.pop(node)
                # All whole blocks may be shared: then the rest of the prompt tells conversations apart by its length.
                return keys[depth] if depth < len(keys) else node + b"%d" % call.prompt_tokens
        return b""

    def _learn(self, call: Call) -> None:
        keys = call.keys
        known = self._known_blocks(keys)
        if known and keys[known - 1] not in self._young.seen:
            self._young.seen.update(islice(keys, known))
        if known < min(len(keys), MAX_BLOCKS):
            self._count(_node(call, known), keys[known], known)
            self._young.seen.update(keys[known : known + EXPLORED_BLOCKS])
        if len(self._young.seen) >= self._max_keys:
            self._old, self._young = self._young, _Generation()

    def _known_blocks(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading blocks were seen before; keys are chained, so halving finds it."""
        young, old = self._young.seen, self._old.seen
        low, high = 0, min(len(keys), MAX_BLOCKS)
        while low < high:
            middle = (low + high + 1) // 2
            if keys[middle - 1] in young or keys[middle - 1] in old:
                low = middle
            else:
                high = middle - 1
        return low

    def _count(self, node: bytes, child: BlockKey, depth: int) -> None:
        """Count a block that was never seen after ``node``: linear counting (Whang et al. 1990) in 64 bits."""
        children = self._young.children
        bits = children.get(node) or self._old.children.get(node, 0)
        children[node] = bits = bits | 1 << (child[0] & 63)
        if bits.bit_count() >= MANY_BITS and node not in self._branchings:
            self._branchings[node] = depth
            if len(self._branchings) > MAX_BRANCHINGS:
                del self._branchings[next(iter(self._branchings))]
            self._depths = sorted(set(self._branchings.values()), reverse=True)


class _Generation:
    """Keys that were seen since the last generation began, and by each the blocks that followed it, as bits."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.children: dict[bytes, int] = {}


def _node(call: Call, depth: int) -> bytes:
    """Return what names the place behind a call's first ``depth`` blocks, where a next block is seen.

    At the activation point that is a place of the adapter's own: its siblings fan out there, from one conversation.
    """
    key = call.keys[depth - 1] if depth else _ROOT
    if depth == call.base_blocks and call.adapter is not None:
        return key + call.adapter.encode("utf-8", "surrogatepass")
    return key
