"""Faults of the directory: what replicas report, and how a prompt's holders are found."""

from __future__ import annotations

from mutation import Mutant

DIRECTORY = (
    Mutant(
        "a block that was stored twice is gone when removed once",
        "directory/mirror.py",
        "        if any(held.counts):\n            for holding in self._report(key):",
        "        if False:\n            for holding in self._report(key):",
        "unit/directory/test_mirror.py::test_a_second_copy_is_not_news_and_its_removal_neither",
    ),
    Mutant(
        "blocks behind a gap are reported",
        "directory/mirror.py",
        "            if held.index and not self._is_reported(held.parent):\n",
        "            if False:\n",
        "unit/directory/test_mirror.py::test_blocks_behind_a_gap_are_reported_once_it_is_filled",
    ),
    Mutant(
        "tenants share the chain's root",
        "directory/mirror.py",
        "return self.keyspace.root(event.cache_salt), salt",
        "return self.keyspace.root(None), salt",
        "unit/directory/test_mirror.py::test_the_salt_of_the_first_block_stays_with_its_chain",
    ),
    Mutant(
        "an adapter's events are the base model's",
        "directory/mirror.py",
        'salt = b"" if event.adapter is None else self.adapter_salts(event.adapter)',
        'salt = b""',
        "unit/directory/test_mirror.py::test_an_adapters_blocks_go_on_from_the_base_models",
    ),
)
