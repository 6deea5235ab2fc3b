from __future__ import annotations

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.pending import MAX_PENDING, PendingClaims, common_blocks

SPACE = KeySpace("model", "tokenizer", 4)
KEYS = SPACE.keys([1] * 40)
FLEET = [Candidate(ReplicaState(name, "1"), claimed_blocks=2, claimed_tokens=5, claims=1) for name in "ab"]


def seen(
    pending: PendingClaims, *, looked_up_at: float, now: float, keys: list[bytes] = KEYS
) -> list[tuple[int, int, int]]:
    found = pending.added_to(FLEET, keys, looked_up_at=looked_up_at, now=now)
    return [(one.claimed_blocks, one.claimed_tokens, one.claims) for one in found]


def test_a_claim_counts_from_its_decision_on_for_its_replica_alone() -> None:
    pending = PendingClaims(keep_s=1.0)
    pending.add("c", "b", KEYS, 40)
    pending.add("d", "b", KEYS, 2)
    assert seen(pending, looked_up_at=0.0, now=0.1) == [(2, 5, 1), (10, 47, 3)]


def test_another_prompt_shares_its_leading_blocks_alone() -> None:
    pending = PendingClaims(keep_s=1.0)
    pending.add("c", "b", KEYS, 40)
    other = SPACE.keys([1] * 12 + [2] * 28)
    assert seen(pending, looked_up_at=0.0, now=0.1, keys=other)[1][0] == 3


def test_a_recorded_claim_counts_only_for_lookups_that_began_before() -> None:
    pending = PendingClaims(keep_s=1.0)
    pending.add("c", "b", KEYS, 40)
    pending.done("c", 0.5)
    assert seen(pending, looked_up_at=0.4, now=0.6)[1][2] == 2
    assert seen(pending, looked_up_at=0.6, now=0.6)[1][2] == 1


def test_what_was_not_recorded_is_forgotten_and_so_is_what_no_lookup_can_lack() -> None:
    pending = PendingClaims(keep_s=1.0)
    pending.add("c", "b", KEYS, 40)
    pending.drop("c")
    pending.add("d", "b", KEYS, 40)
    pending.done("d", 0.5)
    assert seen(pending, looked_up_at=0.4, now=1.6)[1][2] == 1
    assert not pending._claims
    pending.drop("unknown")
    pending.done("unknown", 1.0)


def test_there_are_never_more_than_the_most() -> None:
    pending = PendingClaims(keep_s=1.0)
    for number in range(MAX_PENDING + 7):
        pending.add(f"c{number}", "a", KEYS, 1)
    assert seen(pending, looked_up_at=0.0, now=0.0)[0][2] == MAX_PENDING + 1


def test_common_blocks_are_counted_for_every_length() -> None:
    for shared in range(11):
        assert common_blocks(KEYS, KEYS[:shared]) == shared
        assert common_blocks(KEYS, SPACE.keys([1] * 4 * shared + [3] * 40)) == shared
