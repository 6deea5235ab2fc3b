"""Places of a replica among tenants."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.routing.fair_share import TenantShare
from aloraserve_services.channel.places import MOST, Places

A, B, C = TenantShare("a", 4.0), TenantShare("b", 1.0), TenantShare("c", 1.0)


def fill(places: Places, share: TenantShare | None) -> int:
    count = 0
    while places.has_room(share):
        places.take(share)
        count += 1
    return count


def test_one_tenant_has_all_places_and_no_more() -> None:
    assert fill(Places(10), A) == 10
    assert fill(Places(10), None) == 10


def test_a_tenant_gets_its_share_whoever_came_first() -> None:
    places = Places(10)
    assert fill(places, B) == 10
    assert fill(places, A) == 8
    assert fill(places, B) == 0
    for _ in range(9):
        places.leave(B)
    assert fill(places, B) == 1, "up to the capacity, and its share of it"


def test_everybody_gets_one_place_however_small_its_share() -> None:
    places = Places(4)
    fill(places, TenantShare("large", 1000.0))
    assert fill(places, B) == 1


@given(st.lists(st.sampled_from([A, B, C, None]), max_size=60), st.integers(1, 12), st.integers(0, 5))
def test_places_are_bounded_and_all_come_back(shares: list[TenantShare | None], capacity: int, seed: int) -> None:
    places, held, chance = Places(capacity), list[TenantShare | None](), random.Random(seed)
    for share in shares:
        if places.has_room(share):
            places.take(share)
            held.append(share)
        elif held and chance.random() < 0.3:
            places.leave(held.pop(chance.randrange(len(held))))
        assert places.taken == len(held) <= MOST * capacity
    for share in held:
        places.leave(share)
    assert (places.taken, places._held) == (0, {})
