"""Faults of the router and its policies."""

from __future__ import annotations

from mutation import Mutant

ROUTING = (
    Mutant(
        "a half-open breaker lets everybody through",
        "routing/breaker.py",
        "        self._next_trial_at = self._clock() + self._open_s\n        return True\n",
        "        return True\n",
        "unit/routing/test_breaker.py::test_half_open_lets_one_through",
    ),
    Mutant(
        "a breaker that opened stays open for ever",
        "routing/breaker.py",
        "        self._failures = 0\n        self._open_s",
        "        self._open_s",
        "unit/routing/test_breaker.py::test_a_trial_that_works_closes_it",
    ),
    Mutant(
        "calls sent but not reported are no load",
        "routing/cost_model.py",
        "return load.running + load.waiting + candidate.claims",
        "return load.running + load.waiting",
        "unit/routing/test_policies.py::test_claims_and_queues_are_load",
    ),
    Mutant(
        "a wait of a process that was held up is over",
        "routing/budget.py",
        "self._clock() - self._started > 2 * self._seconds",
        "False",
        "unit/routing/test_router.py::test_a_process_that_is_held_up_all_the_time_waits_some_turns_for_its_answer",
    ),
    Mutant(
        "conversations that share a system prompt have one name",
        "routing/conversation_names.py",
        "        return own or plain_name(call)",
        "        return plain_name(call)",
        "unit/routing/test_conversation_names.py::test_applications_with_system_prompts_of_their_own "
        "unit/routing/test_router.py::test_in_an_outage_conversations_with_one_system_prompt_spread_and_stay",
    ),
    Mutant(
        "a conversation's siblings of many adapters are conversations of their own",
        "routing/conversation_names.py",
        "    if depth == call.base_blocks and call.adapter is not None:",
        "    if False:",
        "unit/routing/test_conversation_names.py::test_siblings_of_many_adapters_have_their_conversations_name",
    ),
    Mutant(
        "names are never forgotten",
        "routing/conversation_names.py",
        "        if len(self._young.seen) >= self._max_keys:",
        "        if False:",
        "unit/routing/test_conversation_names.py::test_what_is_learned_stays_bounded_and_what_is_in_use_is_kept",
    ),
    Mutant(
        "a call is in flight for ever",
        "serving/attempt.py",
        "        self._router.ended(self._engine_call.request_id)\n",
        "",
        "unit/serving/test_attempts.py::test_a_call_is_in_flight_until_it_ends_in_whatever_way",
    ),
    Mutant(
        "a call that is cancelled while it is placed is in flight for ever",
        "routing/router.py",
        "        except BaseException:\n            self._in_flight.end(claim_id)\n            raise\n",
        "        except ZeroDivisionError:\n            raise\n",
        "unit/routing/test_router.py::test_a_call_that_is_cancelled_while_it_is_placed_does_not_count",
    ),
    Mutant(
        "the fallback does not look at the calls in flight",
        "routing/rendezvous.py",
        "                candidate.state.replica in busy,\n",
        "",
        "unit/routing/test_router.py::test_in_an_outage_a_burst_of_one_conversation_is_spread_by_the_calls_in_flight",
    ),
    Mutant(
        "a replica without a lease looks idle",
        "routing/fleet_mean.py",
        "load=load or ReplicaLoad()), claimed",
        "load=ReplicaLoad()), claimed",
        "unit/routing/test_router.py::test_no_policy_takes_a_replica_without_a_lease_for_an_idle_one",
    ),
    Mutant(
        "an unforeseen error of the directory fails the call",
        "directory/guarded.py",
        "        except Exception as error:",
        "        except ZeroDivisionError as error:",
        "unit/routing/test_router.py::test_no_error_of_a_lookup_fails_a_decision "
        "unit/routing/test_router.py::test_no_error_of_a_claim_or_a_withdrawal_fails_a_call",
    ),
    Mutant(
        "calls in flight never end",
        "routing/in_flight.py",
        "        call = self._calls.pop(call_id, None)\n",
        "        call = None\n",
        "unit/routing/test_router.py::test_a_call_counts_until_its_end_in_whatever_way_it_ends",
    ),
    Mutant(
        "a conversation is its system prompt",
        "routing/conversation_names.py",
        '        own = self._behind_branching(call) if call.session is None else b""\n',
        '        own = b""\n',
        "unit/routing/test_conversation_names.py"
        "::test_behind_a_shared_prompt_of_any_length_each_conversation_has_a_name_that_its_turns_keep "
        "unit/routing/test_rendezvous.py::test_conversations_with_one_system_prompt_spread_over_the_fleet",
    ),
    Mutant(
        "who waits does not move up",
        "routing/scheduling.py",
        " + self.ageing * accepted_s",
        "",
        "unit/routing/test_scheduling.py::test_a_second_of_waiting_makes_up_for_its_share_of_prefill "
        "unit/routing/test_scheduling.py::test_nothing_overtakes_a_call_that_came_so_much_earlier",
    ),
    Mutant(
        "calls as long as one's own do not count",
        "routing/queue_profile.py",
        "    return sum(profile[: bisect_left(EDGES_S, prefill_s) + 1])\n",
        "    return sum(profile[: bisect_left(EDGES_S, prefill_s)])\n",
        "unit/routing/test_queue_profile.py::test_calls_as_long_as_it_are_all_before_a_call",
    ),
    Mutant(
        "a call waits for the whole queue",
        "routing/queue_profile.py",
        "    return sum(profile[: bisect_left(EDGES_S, prefill_s) + 1])\n",
        "    return sum(profile)\n",
        "unit/routing/test_queue_profile.py::test_what_is_before_a_call_is_right_within_a_bucket",
    ),
)
