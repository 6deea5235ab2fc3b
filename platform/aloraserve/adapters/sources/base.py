"""The contract of the places that adapters come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aloraserve.adapters.peft_files import CONFIG_FILE, OPTIONAL_FILES, WEIGHTS_FILE, max_bytes

FILE_LIMITS = {name: max_bytes(name) for name in (CONFIG_FILE, *OPTIONAL_FILES, WEIGHTS_FILE)}
"""Every file that is fetched, the small ones first, and its greatest length in bytes. Nothing else is looked at."""
CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all, of all files together."""


class SourceInterruptedError(Exception):
    """Raised when reading ended early and may succeed on another attempt, from where it ended."""


class SourceChangedError(Exception):
    """Raised when a file is not the version that was listed: what was read of it so far is of no use."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of an adapter at its source.

    Args:
        name: one of :data:`FILE_LIMITS`.
        size: length in bytes.
        version: what differs once the file has other content: an entity tag, a digest, or times and an inode.
        sha256: hex digest of the content, where the source knows it.
    """

    name: str
    size: int
    version: str
    sha256: str | None = None


class Source(Protocol):
    """One adapter at its source. Used by one thread, for one fetch.

    Implementations reach out only when they are called. They raise
    :class:`~aloraserve.errors.AdapterSourceError` for what another attempt would not mend (not there, not permitted),
    :class:`SourceInterruptedError` for what it may, and no other error. Messages have neither credentials nor the text
    of a server's answer.
    """

    def files(self) -> Sequence[SourceFile]:
        """Return which of :data:`FILE_LIMITS` there are: one bounded look, no content."""
        ...

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        """Yield a file's bytes from ``offset`` on, in chunks of at most :data:`CHUNK_BYTES`.

        Raises:
            SourceChangedError: the file there is not that version any more.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...
