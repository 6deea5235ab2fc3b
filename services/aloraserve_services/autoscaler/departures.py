"""Replicas from the moment at which they are chosen to leave until they are gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from aloraserve.directory.base import LEAVING_TTL_S, Directory
from aloraserve.errors import DirectoryUnavailableError

MAX_ENDING = 256
"""Replicas that are being stopped at a time, and keep their marks."""


class Departures:
    """Marks replicas in the directory before Serve is told to stop them, and as long as they are there.

    A replica that Serve has not stopped yet, and that a later decision needs, is taken back. One that Serve stops by
    itself, as an update does, is marked once it is not among the running ones any more.

    Args:
        directories: of the fleet's cells.
        on_failure: called for each mark that cannot be written.
        chosen: those that leave already.

    Attributes:
        chosen: ids of those that leave, in their order; another thread may read it.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        on_failure: Callable[[], None] = lambda: None,
        chosen: Sequence[str] = (),
    ) -> None:
        self.chosen = tuple(chosen)
        self._running: tuple[str, ...] = ()
        self._directories = directories
        self._on_failure = on_failure

    async def follow(
        self,
        victims: Sequence[str],
        target: int,
        running: Collection[str],
        cells: Mapping[str, int],
        *,
        is_known: bool = True,
    ) -> None:
        """Take in a decision, and mark who leaves.

        Args:
            victims: of the decision, in order.
            target: of the decision.
            running: ids of the replicas that Serve has not stopped.
            cells: of the live replicas, those that are being stopped included.
            is_known: whether ``cells`` was read; if not, none is taken to be gone.
        """
        staying = [replica for replica in (*self.chosen, *victims) if replica in running]
        leaving = list(dict.fromkeys(staying))[: max(len(running) - target, 0)]
        stopped = dict.fromkeys(replica for replica in (*self.chosen, *self._running) if replica not in running)
        ending = [replica for replica in stopped if replica in cells or not is_known][-MAX_ENDING:]
        back = [replica for replica in self.chosen if replica in running and replica not in leaving]
        self.chosen = (*leaving, *ending)
        self._running = tuple(running)
        for replica in back:
            await self._mark(replica, cells, 0.0)
        for replica in self.chosen:
            await self._mark(replica, cells, LEAVING_TTL_S)

    async def _mark(self, replica: str, cells: Mapping[str, int], ttl_s: float) -> None:
        cell = cells.get(replica)
        if cell is None:
            return
        try:
            await self._directories[cell].mark_leaving(replica, ttl_s=ttl_s)
        except DirectoryUnavailableError:
            self._on_failure()
