"""When what is in an adapter's folder counts: not while it is being copied there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aloraserve.adapters.base import AdapterVersion, RefusedAdapter
from aloraserve.adapters.fingerprint import Fingerprint, fingerprint_of
from aloraserve.adapters.problems import plain
from aloraserve.errors import InvalidAdapterError

SETTLED_READINGS = 2
"""A folder is read once so many readings in a row found its files the same."""
BAD_READINGS = 5
"""A served adapter is refused once so many did: a copy over it may pause, and is not whole before its end."""

Read = Callable[[str, Path], AdapterVersion]
Outcome = AdapterVersion | RefusedAdapter | None


class Subfolder:
    """One adapter's folder, looked at again and again.

    - A new one is served or refused when it has settled; until then it is not there.
    - A changed one is served as it was until it has settled. If it is good then, the new version takes its place; if it
      is bad and stays so, it is refused.
    - A removed one is served until it has been away for as long: a folder may be renamed away and its next version into
      its place.

    Args:
        path: the folder, named like the adapter.
        read: makes a version of it.

    Attributes:
        outcome: what counts now; None before it has settled and after it has gone.
    """

    def __init__(self, path: Path, read: Read) -> None:
        self._path = path
        self._read = read
        self._seen: Fingerprint | None = None
        self._readings = 0
        self._judged: Fingerprint | None = None
        self._verdict: AdapterVersion | RefusedAdapter | None = None
        self.outcome: Outcome = None

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing to look at any more."""
        return self._seen is None and self.outcome is None

    def look(self, *, at_once: bool = False) -> None:
        """Take in what is there now.

        Args:
            at_once: count it as settled, as when the platform starts.
        """
        found = fingerprint_of(self._path)
        self._readings = self._readings + 1 if found == self._seen else 1
        self._seen = found
        if at_once or self._readings >= SETTLED_READINGS:
            self._settle(found)

    def _settle(self, found: Fingerprint | None) -> None:
        if found is None:
            self.outcome = self._judged = self._verdict = None
            return
        if found != self._judged:
            self._judge(found)
        is_served = isinstance(self.outcome, AdapterVersion)
        if is_served and isinstance(self._verdict, RefusedAdapter) and self._readings < BAD_READINGS:
            return
        self.outcome = self._verdict

    def _judge(self, found: Fingerprint) -> None:
        verdict, is_final = self._attempt()
        if fingerprint_of(self._path) != found:
            # It changed while it was read: what was read may be half of each.
            self._readings = 0
            return
        self._verdict = verdict
        self._judged = found if is_final else None

    def _attempt(self) -> tuple[AdapterVersion | RefusedAdapter, bool]:
        """Return what the folder is, and whether it would be the same another time."""
        # A folder may have any name: one that cannot be printed must not break the list that it stands in.
        shown = plain(self._path.name)
        try:
            return self._read(self._path.name, self._path), True
        except InvalidAdapterError as error:
            return RefusedAdapter(shown, error.message), not isinstance(error.__cause__, OSError)
        except Exception as error:  # noqa: BLE001 - files that nobody thought of must not end the registry for all
            return RefusedAdapter(shown, f"it cannot be read: {type(error).__name__}"), True
