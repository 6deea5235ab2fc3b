"""Server-sent events as the platform sends them: one line of data each."""

from __future__ import annotations

from collections.abc import Iterator

_DATA = b"data: "


class EventReader:
    """Reads events, however they are cut; a line ends with a line feed alone, as texts may have other ends of lines."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of the events that are whole with another piece; comments are passed over."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield line.removeprefix(_DATA)
