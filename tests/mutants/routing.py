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
)
