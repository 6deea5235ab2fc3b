"""What Serve tries: every replica once, in the gateway's order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aloraserve_services.gateway.ranked_router import in_order


def ordered(there: str, rank: str) -> str:
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in there]
    return "".join(one.replica_id.unique_id for one in in_order(replicas, list(rank)))


@pytest.mark.parametrize(
    ("there", "rank", "wanted"),
    [
        ("abc", "cab", "cab"),
        ("abc", "", "abc"),
        ("cba", "", "cba"),
        ("dcba", "b", "bdca"),
        ("abc", "xcy", "cab"),
        ("abc", "xyz", "abc"),
        ("", "abc", ""),
    ],
)
def test_the_ranked_come_first_in_their_order_and_the_others_as_they_came(there: str, rank: str, wanted: str) -> None:
    assert ordered(there, rank) == wanted
