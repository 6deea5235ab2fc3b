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
        "a heartbeat leaves settled claims open",
        "directory/lua/publish.lua",
        "if #ARGV > 5 then redis.call('HDEL', open, unpack(ARGV, 6)) end\n",
        "",
        "contract/test_directory.py::TestClaims::test_claimed_tokens_count_until_the_replica_settles_them[redis]",
    ),
    Mutant(
        "a heartbeat leaves expired claims open",
        "directory/lua/publish.lua",
        "if ends <= now then",
        "if false then",
        "contract/test_directory.py::TestClaims::test_a_claim_expires[redis]",
    ),
    Mutant(
        "what a dead replica claimed first stays claimed",
        "directory/lua/claim.lua",
        "if other ~= replica and is_alive(redis.call('HGET', replicas, other), start) then",
        "if other ~= replica then",
        "contract/test_directory.py::TestClaims"
        "::test_what_the_dead_and_earlier_incarnations_left_stops_no_claim[redis]",
    ),
    Mutant(
        "a claim made again counts twice",
        "directory/lua/claim.lua",
        "if before then subtract(total, before) end\n",
        "",
        "contract/test_directory.py::TestClaims::test_a_claim_made_again_counts_once[redis]",
    ),
    Mutant(
        "another claim's withdrawal frees a block",
        "directory/lua/withdraw.lua",
        "if taken and cmsgpack.unpack(taken)[1] == claim_id then",
        "if taken then",
        "contract/test_directory.py::TestClaims::test_a_withdrawn_claim_stops_no_other[redis]",
    ),
    Mutant(
        "an earlier incarnation's holder stands for its replica",
        "directory/directory_view.py",
        "            del self._by_holder[self._holders[place]]\n",
        "",
        "contract/test_directory.py::TestHoldings::test_a_new_incarnation_hides_what_the_old_one_held[redis]",
    ),
    Mutant(
        "an unreadable record ends the reply",
        "directory/fleet_view.py",
        "            self._pass_over(name)\n            return None\n",
        "            raise\n",
        "unit/directory/test_fleet_view.py::test_a_record_that_cannot_be_read_leaves_the_others",
    ),
)
