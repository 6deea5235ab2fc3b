"""A directory whose every failure is one that its users expect."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog

from aloraserve.directory.base import Directory
from aloraserve.directory.wrapper import AnswerT, DirectoryWrapper
from aloraserve.errors import DirectoryUnavailableError, KeySpaceMismatchError

LOG_EVERY_S = 60.0

log = structlog.get_logger(__name__)


class GuardedDirectory(DirectoryWrapper):
    """See :class:`~aloraserve.directory.base.Directory`: whatever a backend raises is a ``DirectoryUnavailableError``.

    Who routes calls must not fail one for a defect of the directory's, or of a library behind it. Such an error is
    logged with its type, once per minute at most. Cancellation and a key space that differs go through.

    Args:
        directory: behind it.
        clock: seconds that never go back.
    """

    def __init__(self, directory: Directory, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(directory)
        self._clock = clock
        self._log_at = clock()
        self._unlogged = 0

    async def _through(self, name: str, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        try:
            return await call()
        except (DirectoryUnavailableError, KeySpaceMismatchError):
            raise
        except Exception as error:
            self._note(name, error)
            raise DirectoryUnavailableError(f"the directory failed: {type(error).__name__}") from error

    def _note(self, name: str, error: Exception) -> None:
        self._unlogged += 1
        if self._clock() >= self._log_at:
            log.error("directory_failed", call=name, cause=type(error).__name__, times=self._unlogged, exc_info=error)
            self._log_at, self._unlogged = self._clock() + LOG_EVERY_S, 0


def guarded(directory: Directory) -> GuardedDirectory:
    """Return a directory that is guarded, the same one if it is already."""
    return directory if isinstance(directory, GuardedDirectory) else GuardedDirectory(directory)
