"""A folder of adapters: each subfolder is one, served under its name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from aloraserve.adapters.base import AdapterVersion, RefusedAdapter
from aloraserve.adapters.peft_files import Decode, read_adapter
from aloraserve.adapters.shape import BaseShape
from aloraserve.errors import InvalidAdapterError, SettingsError

MAX_ADAPTERS = 256


class FolderCatalog:
    """The adapters in the direct subfolders of ``root``; those whose name starts with a dot are passed over.

    Args:
        root: the folder; read once, here.
        base: shape of the base model.
        base_names: names that the base model is served under, which no adapter may take.
        max_rank: the highest rank the engine has room for.
        decode: token ids to text, for the invocations.

    Raises:
        SettingsError: ``root`` is no readable folder.
    """

    def __init__(
        self,
        root: Path,
        *,
        base: BaseShape,
        base_names: Collection[str] = (),
        max_rank: int = 64,
        decode: Decode | None = None,
    ) -> None:
        self._served: dict[str, AdapterVersion] = {}
        self._refused: list[RefusedAdapter] = []
        for folder in _subfolders(root):
            try:
                self._check_room(folder.name, base_names)
                self._served[folder.name] = read_adapter(folder, base=base, max_rank=max_rank, decode=decode)
            except InvalidAdapterError as exc:
                self._refused.append(RefusedAdapter(folder.name, exc.message))

    def get(self, name: str) -> AdapterVersion | None:
        """Return the adapter called ``name``, or None."""
        return self._served.get(name)

    def all(self) -> tuple[AdapterVersion, ...]:
        """Return every served adapter, sorted by name."""
        return tuple(self._served.values())

    def refused(self) -> tuple[RefusedAdapter, ...]:
        """Return every adapter that is not served, sorted by name."""
        return tuple(self._refused)

    def _check_room(self, name: str, base_names: Collection[str]) -> None:
        if name in base_names:
            raise InvalidAdapterError(f"the adapter's name {name!r} is the base model's; rename its folder")
        if len(self._served) >= MAX_ADAPTERS:
            raise InvalidAdapterError(f"{MAX_ADAPTERS} adapters are served already, the most that are accepted")


def _subfolders(root: Path) -> list[Path]:
    try:
        entries = sorted(root.iterdir(), key=lambda path: path.name)
        return [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    except OSError as exc:
        raise SettingsError(
            f"the adapters' folder {root} cannot be read: {exc}; an existing folder is accepted"
        ) from exc
