"""Questions to the catalog's list, and its pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aloraserve.adapters.base import AdapterKind
from aloraserve.adapters.catalog.entry import AdapterEntry, AdapterState

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """A filter: an entry has to fit all that is given.

    Args:
        prefix: the name begins with it.
        state: it is in; None: in any but deleted.
        kind: of adapter.
        owner: it belongs to.
        labels: it has, with these values.
        visible_to: only what this tenant may see counts; see ``sees_all``.
        sees_all: whether what other tenants keep private counts too, as for administrators.
        cursor: where a page begins: the ``next`` of the page before it, empty for the first.
        limit: entries of a page, 1 to :data:`MAX_LIMIT`.
    """

    prefix: str = ""
    state: AdapterState | None = None
    kind: AdapterKind | None = None
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    visible_to: str | None = None
    sees_all: bool = True
    cursor: str = ""
    limit: int = DEFAULT_LIMIT

    def fits(self, entry: AdapterEntry) -> bool:
        """Whether an entry is asked for."""
        if self.kind is not None and entry.kind != self.kind:
            return False
        if self.owner is not None and entry.owner != self.owner:
            return False
        if self.labels and any(entry.labels.get(label) != value for label, value in self.labels.items()):
            return False
        state = entry.history[-1].state
        if state is not self.state if self.state else state is AdapterState.DELETED:
            return False
        return self.sees_all or entry.is_visible_to(self.visible_to)


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries by name, and of one name in the order in which they were registered.

    Args:
        entries: at most as many as were asked for.
        next: cursor of the next page, empty if this is the last.
    """

    entries: Sequence[AdapterEntry]
    next: str = ""
