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
        "root = self.keyspace.root(event.cache_salt)",
        "root = self.keyspace.root(None)",
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
    Mutant(
        "claims that expired are kept",
        "directory/lua/publish.lua",
        "    redis.call('HDEL', open, all[i])\n",
        "    local ignored = all[i]\n",
        "integration/test_directory_work.py::test_a_heartbeat_frees_claims_that_expired",
    ),
    Mutant(
        "a replica that retired keeps its claims",
        "directory/lua/retire.lua",
        "if totals_of(replica).count > 0 then set_totals(replica, no_totals(), forget_ms) end\n",
        "",
        "contract/test_directory.py::TestClaims::test_retiring_ends_the_claims_too[redis]",
    ),
    Mutant(
        "an error that nobody foresaw goes through",
        "directory/guarded.py",
        "        except Exception as error:\n",
        "        except OSError as error:\n",
        "unit/directory/test_guarded.py::test_whatever_a_backend_raises_is_unavailability "
        "unit/routing/test_router.py::test_no_error_of_a_claim_or_a_withdrawal_fails_a_call",
    ),
    Mutant(
        "a refresh that began too early is enough",
        "directory/view_refresher.py",
        "        self._as_of = began_at\n",
        "        self._as_of = self._clock()\n",
        "unit/directory/test_view_refresher.py::test_a_refresh_that_began_before_is_not_enough",
    ),
)
