"""Which sources the operator allows: schemes, hosts and roots. What no entry covers is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aloraserve.adapters.sources.reference import SCHEMES, SourceReference
from aloraserve.errors import AdapterSourceError

_PLAIN = re.compile(r"[A-Za-z0-9._:\[\]/-]*")
HOSTS_ONLY = "https"
"""Scheme of entries that name a host which registries and the hub may redirect to, for all that it is private."""


@dataclass(frozen=True, slots=True)
class AllowedSource:
    """An entry of the setting ``adapter_sources``.

    Args:
        scheme: one of :data:`~aloraserve.adapters.sources.reference.SCHEMES`, or :data:`HOSTS_ONLY`.
        host: bucket, account, owner or host; empty: every one.
        path: segments; what is below them is allowed.
    """

    scheme: str
    host: str = ""
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedSource:
        """Return the entry that ``text`` is: a folder, or the beginning of a URL.

        Raises:
            ValueError: it is neither; says what is accepted.
        """
        scheme, _, rest = text.partition("://") if "://" in text else ("file", "", text)
        parts = tuple(rest.strip("/").split("/")) if rest.strip("/") else ()
        if scheme == "file" and rest.startswith("/") and ".." not in parts:
            return cls(scheme, "", parts)
        if scheme == "file" or scheme not in (*SCHEMES, HOSTS_ONLY) or not _PLAIN.fullmatch(rest) or ".." in parts:
            accepted = ", ".join(f"{name}://" for name in (*SCHEMES, HOSTS_ONLY))
            shown = "an entry with a user" if "@" in text else ascii(text[:80])
            raise ValueError(f"{shown} is not accepted; an absolute folder or a URL with {accepted} is needed")
        return cls(scheme, "".join(parts[:1]), parts[1:])

    def covers(self, source: SourceReference) -> bool:
        """Whether a remote source is this one or below it, part by part."""
        return (
            self.scheme == source.scheme
            and self.host in ("", source.host)
            and self.path == source.path[: len(self.path)]
        )


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """The operator's allow-list.

    Args:
        allowed: the entries.
        any_folder: whether every local folder is allowed as well.
    """

    allowed: tuple[AllowedSource, ...] = ()
    any_folder: bool = False

    @classmethod
    def of(cls, entries: Iterable[str], roots: Iterable[Path] = (), *, any_folder: bool = False) -> SourcePolicy:
        """Return the policy of a setting's texts and of folders; see :meth:`AllowedSource.parse`."""
        folders = tuple(AllowedSource("file", "", Path(os.path.abspath(root)).parts[1:]) for root in roots)
        return cls((*(AllowedSource.parse(entry) for entry in entries), *folders), any_folder)

    def check(self, source: SourceReference) -> None:
        """Pass a remote source that an entry covers.

        Raises:
            AdapterSourceError: none does.
        """
        if not any(entry.covers(source) for entry in self.allowed):
            raise AdapterSourceError(
                f"the source {source} is not allowed here; the setting adapter_sources lists what is, "
                f"e.g. {source.scheme}://{source.host}"
            )

    def folder(self, source: SourceReference) -> Path:
        """Return a local folder, all links followed, that an entry covers.

        Raises:
            AdapterSourceError: it is not there, or leads to where no entry covers it.
        """
        named = Path(str(source))
        # One answer for both, so that nobody learns which folders there are outside the roots.
        try:
            folder = named.resolve(strict=True)
        except (OSError, RuntimeError):
            folder = Path(os.path.normpath(named))
        if not self.covers_path(folder):
            raise AdapterSourceError(
                "the source is a folder outside of those allowed; the setting adapter_sources lists them"
            )
        # Unlike the path's own method, this answers for names that no file system has, and for what may not be read.
        if not os.path.isdir(folder):
            raise AdapterSourceError("the source is not a folder on this machine")
        return folder

    def covers_path(self, path: Path) -> bool:
        """Whether a path without links is below a root."""
        return self.any_folder or any(path.is_relative_to(root) for root in self._roots())

    def lists_host(self, host: str, port: int) -> bool:
        """Whether an entry names this host, so that its address may be private."""
        names = {host, f"{host}:{port}", f"[{host}]:{port}", f"[{host}]"}
        return any(entry.scheme in ("oci", HOSTS_ONLY) and entry.host in names for entry in self.allowed)

    def _roots(self) -> list[Path]:
        return [Path("/", *entry.path).resolve() for entry in self.allowed if entry.scheme == "file"]
