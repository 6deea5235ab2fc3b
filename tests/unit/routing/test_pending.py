from __future__ import annotations

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.pending import MAX_PENDING, PendingClaims, common_blocks

SPACE = KeySpace("model", "tokenizer", 4)
KEYS = SPACE.keys([1] * 40)
FLEET = [Candidate(ReplicaState(name, "1"), claimed_blocks=2, claimed_tokens=5, claims=1) for name in "ab"]


def seen(pending: PendingClaims, keys: list[bytes] = KEYS) -> list[tuple[int, int, int]]:
    found = pending.added_to(FLEET, keys)
    return [(one.claimed_blocks, one.claimed_tokens, one.claims) for one in found]


def test_a_claim_counts_from_its_decision_on_for_its_replica_alone() -> None:
    pending = PendingClaims()
    pending.add("c", "b", KEYS, 40)
    pending.add("d", "b", KEYS, 2)
    assert seen(pending) == [(2, 5, 1), (10, 47, 3)]


def test_another_prompt_shares_its_leading_blocks_alone() -> None:
    pending = PendingClaims()
    pending.add("c", "b", KEYS, 40)
    other = SPACE.keys([1] * 12 + [2] * 28)
    assert seen(pending, other)[1][0] == 3


def test_what_the_directory_has_or_refused_no_longer_counts_here() -> None:
    pending = PendingClaims()
    pending.add("c", "b", KEYS, 40)
    pending.drop("c")
    pending.drop("unknown")
    assert seen(pending)[1] == (2, 5, 1)
    assert not len(pending)


def test_there_are_never_more_than_the_most() -> None:
    pending = PendingClaims()
    for number in range(MAX_PENDING + 7):
        pending.add(f"c{number}", "a", KEYS, 1)
    assert seen(pending)[0][2] == MAX_PENDING + 1


def test_common_blocks_are_counted_for_every_length() -> None:
    for shared in range(11):
        assert common_blocks(KEYS, KEYS[:shared]) == shared
        assert common_blocks(KEYS, SPACE.keys([1] * 4 * shared + [3] * 40)) == shared
