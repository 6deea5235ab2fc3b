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
    Mutant(
        "a push that was given up takes effect later",
        "directory/lua/apply.lua",
        "if latest and tonumber(latest) > tonumber(fence) then return 1 end\n",
        "",
        "contract/test_directory_upkeep.py::TestPushes::test_a_push_that_was_given_up_has_no_effect_once_it_was_made_again",
    ),
    Mutant(
        "an index goes on to list blocks that went",
        "directory/lua/apply.lua",
        "  unlisted(index, anchor, old)\n",
        "",
        "contract/test_directory_upkeep.py::TestReclaim::test_an_index_knows_no_block_that_went",
    ),
    Mutant(
        "a lookup takes a prompt's last run as held by all",
        "directory/lua/parts/bisect.lua",
        "(ranks[id] or ABSENT) <= levels[id]",
        "true",
        "contract/test_directory_upkeep.py::test_every_walk_agrees_with_a_naive_one",
    ),
    Mutant(
        "what a lost push said is forgotten",
        "directory/ingest.py",
        "                self._queue.put_back(changes)\n",
        "                pass\n",
        "unit/directory/test_ingest.py::test_a_push_that_may_not_have_arrived_is_made_again_and_nothing_stops_counting",
    ),
    Mutant(
        "a slot that moves costs its holdings",
        "directory/redis_epochs.py",
        "copy = seen.epoch.copy if seen is not None and (has_moved or seen.run == run) else run",
        "copy = seen.epoch.copy if seen is not None and seen.run == run else run",
        "unit/directory/test_redis_epochs.py::test_a_slot_that_moves_changes_no_epoch",
    ),
)
