"""The contract of a routing policy: a pure ordering of the live replicas for one call.

A policy never does I/O, never raises for odd but valid input, and takes bounded time: at most linear in the
number of candidates (times its logarithm). It orders every candidate exactly once; of many it may leave out all but the
best ones, which are then the last to be tried. Ties go by what all gateways
know of the call and the candidates (load, a hash of the conversation, the lower replica id), so that two gateways that
see the same state choose the same replica for the same call. A policy may remember past decisions of its own process
(a turn, a tree of prompts), in bounded memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate


@dataclass(frozen=True, slots=True)
class Call:
    """Facts of a call that a policy may know.

    Args:
        prompt_tokens: length of the prompt.
        block_tokens: tokens per block.
        keys: the prompt's block keys, exact: base before the activation point, the adapter's after it.
        adapter: name of the adapter, None for the base model.
        session: the client's own id of the conversation, where it sends one.
        base_blocks: how many leading blocks are the base model's own, None if all are.
        conversation: what names the call's conversation, as the gateway has learned it
            (:class:`~aloraserve.routing.conversation_names.ConversationNames`); empty before.
        version: key of the adapter's version, as replicas publish what they have loaded; None for the base model.
    """

    prompt_tokens: int
    block_tokens: int
    keys: Sequence[BlockKey]
    adapter: str | None = None
    session: str | None = None
    base_blocks: int | None = None
    conversation: bytes = b""
    version: str | None = None


class Estimate(NamedTuple):
    """One candidate's expected TTFT and what it is made of.

    Args:
        replica: the candidate's id.
        label: its short name.
        expected_ttft_s: the sum of the parts below.
        overlap_tokens: prompt tokens that need no prefill there.
        queued_tokens: prefill tokens before this call, claimed ones included.
        queue_s: until they are prefilled.
        prefill_s: of this call's own tokens.
        decode_s: what running answers add to both.
        slot_s: wait for a request slot and for an adapter slot.
        adapter_s: loading the adapter.
        memory_s: copying blocks from a slower tier, and what a KV cache that overflows costs.
        unknown_s: charged to a replica that published nothing.
        tpot_s: charged on top, no part of the sum: what the call does to answers that run there.
    """

    replica: str
    label: str
    expected_ttft_s: float
    overlap_tokens: int
    queued_tokens: int
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    slot_s: float = 0.0
    adapter_s: float = 0.0
    memory_s: float = 0.0
    unknown_s: float = 0.0
    tpot_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """An ordering of replicas, best first, and why.

    ``policy`` names the policy that decided, or "fallback" with its cause in ``reason``.
    """

    policy: str
    reason: str
    estimates: tuple[Estimate, ...]

    @property
    def rank(self) -> list[str]:
        """Replica ids, best first."""
        return [estimate.replica for estimate in self.estimates]


class Policy(Protocol):
    """Orders candidates for a call; see the module's docstring."""

    name: str

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Return the decision for ``call``; with no candidates, one with no estimates."""
        ...
