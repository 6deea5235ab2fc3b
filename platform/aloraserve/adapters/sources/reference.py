"""How a source is written: a folder or a URL, taken apart once, before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from aloraserve.errors import AdapterSourceError

MAX_REFERENCE = 2048
ACCEPTED = (
    "an absolute folder, file:///folder, s3://bucket/folder, gs://bucket/folder, az://account/container/folder, "
    "hf://owner/repository[/folder][@revision], oci://host/repository:tag and oci://host/repository@sha256:digest"
)
_SHOWN = 120
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SEGMENT = re.compile(r"[^/\\%?#*\[\]{}<>|\"'`^~:@\s]{1,255}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class SourceReference:
    """A source, taken apart.

    Args:
        scheme: "file", "s3", "gs", "az", "hf" or "oci".
        host: bucket, account, owner or registry host with port; empty for folders.
        path: the segments below the host.
        version: the hub's revision, or the tag or digest of an artifact; empty where there is none.
    """

    scheme: str
    host: str
    path: tuple[str, ...]
    version: str = ""

    @property
    def folder(self) -> str:
        """The path as one string."""
        return "/".join(self.path)

    def __str__(self) -> str:
        if self.scheme == "file":
            return f"/{self.folder}"
        separator = "" if not self.version else "@" if self.scheme == "hf" or ":" in self.version else ":"
        return f"{self.scheme}://{'/'.join((self.host, *self.path))}{separator}{self.version}"


def parse_reference(text: str) -> SourceReference:
    """Return the source that ``text`` names; nothing is opened.

    Raises:
        AdapterSourceError: it is not one of :data:`ACCEPTED`. A user and password in it are never shown.
    """
    if len(text) > MAX_REFERENCE or not text.isprintable() or not text:
        raise AdapterSourceError(
            f"the source is not 1 to {MAX_REFERENCE} printable characters; {ACCEPTED} are accepted"
        )
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _parse_file(text)
    if scheme not in _PARSERS:
        raise AdapterSourceError(f"the source has the scheme {scheme[:20]!r}; {ACCEPTED} are accepted")
    if scheme != "file" and "@" in rest.partition("/")[0]:
        raise AdapterSourceError(
            "the source has a user or password in its URL, which are never taken from there; "
            "credentials come from the server's environment"
        )
    return _PARSERS[scheme](rest)


def _parse_file_url(rest: str) -> SourceReference:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise _wrong("file", "has a host", "file:///folder")
    return _parse_file(unquote("/" + path))


def _parse_file(path: str) -> SourceReference:
    if not path.startswith("/"):
        raise AdapterSourceError(f"the source {path[:_SHOWN]!r} is not absolute; {ACCEPTED} are accepted")
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts or not path.isprintable() or not parts:
        raise _wrong("file", "has '..' or nothing in it", "an absolute folder")
    return SourceReference("file", "", parts)


def _parse_bucket(scheme: str) -> Callable[[str], SourceReference]:
    def parse(rest: str) -> SourceReference:
        bucket, _, key = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise _wrong(scheme, "has no valid bucket", f"{scheme}://bucket/folder")
        return SourceReference(scheme, bucket, _segments(scheme, key))

    return parse


def _parse_azure(rest: str) -> SourceReference:
    account, _, key = rest.partition("/")
    segments = _segments("az", key)
    if not _ACCOUNT.fullmatch(account) or not segments or not _BUCKET.fullmatch(segments[0]):
        raise _wrong("az", "has no valid account and container", "az://account/container/folder")
    return SourceReference("az", account, segments)


def _parse_hub(rest: str) -> SourceReference:
    path, _, revision = rest.partition("@")
    owner, _, key = path.partition("/")
    segments = _segments("hf", key)
    if not _OWNER.fullmatch(owner) or not segments or not _OWNER.fullmatch(segments[0]):
        raise _wrong("hf", "has no valid owner and repository", "hf://owner/repository[/folder][@revision]")
    if ("@" in rest and not _REVISION.fullmatch(revision)) or ".." in revision:
        raise _wrong("hf", "has no valid revision after '@'", "a branch, tag or commit")
    return SourceReference("hf", owner, segments, revision)


def _parse_artifact(rest: str) -> SourceReference:
    host, _, name = rest.partition("/")
    name, at, digest = name.partition("@")
    name, colon, tag = name.partition(":")
    version = digest if at else tag
    segments = tuple(name.split("/"))
    if not _HOST.fullmatch(host) or not all(_REPOSITORY.fullmatch(part) for part in segments):
        raise _wrong("oci", "has no valid host and repository", "oci://host/repository:tag")
    if not (_DIGEST if at else _TAG).fullmatch(version) or (at and colon):
        raise _wrong("oci", "has no valid tag or digest", "oci://host/repository:tag or @sha256:digest")
    return SourceReference("oci", host, segments, version)


def _segments(scheme: str, path: str) -> tuple[str, ...]:
    """Return the parts of a path, none of which leads elsewhere in any program that reads it."""
    parts = tuple(part for part in path.removesuffix("/").split("/")) if path else ()
    if any(part in (".", "..") or not _SEGMENT.fullmatch(part) for part in parts):
        raise _wrong(scheme, "has '..', an empty part or a special character in its path", "a plain path")
    return parts


def _wrong(scheme: str, what: str, accepted: str) -> AdapterSourceError:
    return AdapterSourceError(f"the {scheme} source {what}; {accepted} is accepted")


_PARSERS: dict[str, Callable[[str], SourceReference]] = {
    "file": _parse_file_url,
    "s3": _parse_bucket("s3"),
    "gs": _parse_bucket("gs"),
    "az": _parse_azure,
    "hf": _parse_hub,
    "oci": _parse_artifact,
}
SCHEMES = tuple(_PARSERS)
