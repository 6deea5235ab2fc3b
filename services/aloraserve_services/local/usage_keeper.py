"""Tenants' use in the state folder of a platform with an embedded Redis, which keeps nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import structlog

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.usage.copy import UsageCopy
from aloraserve_services.plan import FleetPlan

KEEP_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class UsageKeeper:
    """See the module's docstring; all calls come from one thread, and block for a moment.

    Args:
        copy: of the fleet's ledger.
        runner: of the event loop that it lives in.
    """

    def __init__(self, copy: UsageCopy, runner: asyncio.Runner) -> None:
        self._copy = copy
        self._runner = runner
        self._kept_at = -KEEP_EVERY_S
        self._is_failing = False

    def keep(self, *, at_once: bool = False) -> None:
        """Have the files follow the ledger, every ``KEEP_EVERY_S`` at most; a failure is logged once."""
        if not at_once and time.monotonic() - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = time.monotonic()
        try:
            self._runner.run(self._copy.keep())
        except (DirectoryUnavailableError, OSError) as error:
            if not self._is_failing:
                log.warning("usage_not_kept", cause=type(error).__name__)
            self._is_failing = True
        else:
            self._is_failing = False

    def emptied(self) -> None:
        """Put back what a server has lost that was started again."""
        self._copy.emptied()
        self.keep(at_once=True)


@contextlib.contextmanager
def usage_kept(plan: FleetPlan) -> Iterator[UsageKeeper]:
    """Put back what earlier runs counted, and keep what this one counts until the context ends.

    Args:
        plan: of the fleet, with the URL of its Redis.
    """
    settings = plan.settings
    with asyncio.Runner() as runner:
        copy = UsageCopy(settings.state_dir / f"usage-{settings.namespace}", plan.open_usage())
        keeper = UsageKeeper(copy, runner)
        keeper.emptied()
        try:
            yield keeper
        finally:
            keeper.keep(at_once=True)
            runner.run(copy.close())
