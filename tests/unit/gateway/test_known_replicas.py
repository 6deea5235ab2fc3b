"""Which replicas Serve has, and that who watches learns of changes."""

from __future__ import annotations

from aloraserve_services.gateway.known_replicas import known_replicas, note_replicas, watching


def test_the_last_report_counts_and_each_deployment_has_its_own() -> None:
    note_replicas("watched", "one", ["b", "a"])
    note_replicas("watched", "two", ["c"])
    assert known_replicas("watched", "one") == ("a", "b")
    note_replicas("watched", "one", [])
    assert (known_replicas("watched", "one"), known_replicas("watched", "two")) == ((), ("c",))


def test_who_watches_is_called_after_the_change_and_not_once_it_has_gone() -> None:
    seen: list[tuple[str, ...]] = []
    with watching(lambda: seen.append(known_replicas("watched", "three"))):
        note_replicas("watched", "three", ["a"])
    note_replicas("watched", "three", ["b"])
    assert seen == [("a",)]
