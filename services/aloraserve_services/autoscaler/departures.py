"""Replicas from the moment at which they are chosen to leave until they are gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from aloraserve.directory.base import LEAVING_TTL_S, Directory
from aloraserve.errors import DirectoryUnavailableError


class Departures:
    """Marks replicas in the directory before Serve is told to stop them, and as long as they are there.

    A replica that Serve has not stopped yet, and that a later decision needs, is taken back.

    Args:
        directories: of the fleet's cells.
        on_failure: called for each mark that cannot be written.

    Attributes:
        chosen: ids of those that leave, in their order; another thread may read it.
    """

    def __init__(self, directories: Sequence[Directory], on_failure: Callable[[], None] = lambda: None) -> None:
        self.chosen: tuple[str, ...] = ()
        self._directories = directories
        self._on_failure = on_failure

    async def follow(
        self, victims: Sequence[str], target: int, running: Collection[str], cells: Mapping[str, int]
    ) -> None:
        """Take in a decision, and mark who leaves.

        Args:
            victims: of the decision, in order.
            target: of the decision.
            running: ids of the replicas that Serve has not stopped.
            cells: of the live replicas, those that are being stopped included.
        """
        staying = [replica for replica in (*self.chosen, *victims) if replica in running]
        leaving = list(dict.fromkeys(staying))[: max(len(running) - target, 0)]
        ending = [replica for replica in self.chosen if replica not in running and replica in cells]
        back = [replica for replica in self.chosen if replica in running and replica not in leaving]
        self.chosen = (*leaving, *ending)
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
