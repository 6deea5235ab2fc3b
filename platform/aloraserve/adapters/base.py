"""Adapter versions, and the contracts of whoever knows which of them are served."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.blocks.keys import version_name

AdapterKind = Literal["lora", "alora"]
Loading = Literal["on demand", "preloaded", "pinned"]
"""When replicas load a version: once it is called; when they start or it comes to be served; the same, for good."""


def _number(name: str, digest: str) -> int:
    content = f"{name}\0{digest}".encode()
    return 1 + int.from_bytes(hashlib.blake2b(content, digest_size=4).digest()) % (2**31 - 1)


@lru_cache(maxsize=1 << 14)
def _key(name: str, digest: str) -> str:
    # Each heartbeat asks for those of all loaded versions.
    return base64.urlsafe_b64encode(_number(name, digest).to_bytes(4)).decode().rstrip("=")


class _Identity:
    """How engines know a version: by its name and content, not by a position."""

    __slots__ = ()
    name: str
    digest: str

    @property
    def engine_id(self) -> int:
        """The positive 31-bit number of this version."""
        return _number(self.name, self.digest)

    @property
    def engine_name(self) -> str:
        """The name of this version, and of no other version of the same adapter."""
        return version_name(self.name, self.digest)

    @property
    def key(self) -> str:
        """``engine_id`` in six characters: what replicas publish of the versions that they have loaded."""
        return _key(self.name, self.digest)


@dataclass(frozen=True, slots=True)
class AdapterRef(_Identity):
    """An adapter version as it travels between processes: everything that identifies it, and not where its files lie.

    Args:
        name: what ``model`` calls it.
        kind: "alora" if it has an invocation, else "lora".
        digest: hex SHA-256 of its files: equal digests mean equal adapters.
    """

    name: str
    kind: AdapterKind
    digest: str


@dataclass(frozen=True, slots=True)
class AdapterVersion(_Identity):
    """A validated PEFT adapter: a name and the content that it has now.

    Args:
        name: what ``model`` calls it.
        kind: "alora" if it has an invocation, else "lora".
        path: a folder with its ``adapter_config.json`` and ``adapter_model.safetensors``.
        rank: LoRA rank.
        target_modules: names of the linears it changes, sorted.
        invocation_ids: an aLoRA's invocation tokens; empty for a plain LoRA.
        digest: hex SHA-256 of its files: equal digests mean equal adapters.
        untrained: whether its weights are random, for trying the platform out.
        loading: when replicas load it, and whether it then stays.
        intrinsic: what it asks and what its answers mean, None for an adapter whose files do not say.
        invocation_text: the text that the invocation's tokens come from; empty if its files do not say.
        invocation_mode: where the invocation stands in a prompt; None if its files do not say: the chat template
            decides then (:func:`~aloraserve.adapters.invocation.derived_mode`).
        alpha: LoRA alpha.
        size_bytes: of its files.
    """

    name: str
    kind: AdapterKind
    path: Path
    rank: int
    target_modules: tuple[str, ...]
    invocation_ids: tuple[int, ...]
    digest: str
    untrained: bool = False
    loading: Loading = field(default="on demand", kw_only=True)
    intrinsic: IntrinsicSpec | None = field(default=None, kw_only=True)
    invocation_text: str = field(default="", kw_only=True)
    invocation_mode: InvocationMode | None = field(default=None, kw_only=True)
    alpha: float = field(default=0.0, kw_only=True)
    size_bytes: int = field(default=0, kw_only=True)

    @property
    def ref(self) -> AdapterRef:
        """This version without its files, to send to another process."""
        return AdapterRef(self.name, self.kind, self.digest)


@dataclass(frozen=True, slots=True)
class RefusedAdapter:
    """An adapter that is not served, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """Changes in a registry from one reading to the next.

    Args:
        added: versions that are served now and were not: new adapters, and new contents of known ones.
        removed: versions that were served and are not any more: removed adapters, and replaced contents.
        refused: every adapter that is not served now, with the reason.
    """

    added: tuple[AdapterVersion, ...] = ()
    removed: tuple[AdapterVersion, ...] = ()
    refused: tuple[RefusedAdapter, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedName:
    """A name that calls may use.

    Args:
        name: for ``model``.
        root: what an alias stands for; its own name, if it is none.
        version: that it means now, or for the most part.
    """

    name: str
    root: str
    version: AdapterVersion


class AdapterRegistry(Protocol):
    """Which adapters a fleet serves now.

    A registry is live: while :meth:`run` runs, adapters come, change and go. A version does not change: whoever
    resolved one may go on with it until its request ends, also after the registry has another, and its files stay as
    they were. :meth:`resolve`, :meth:`all` and :meth:`refused` do no I/O and may be called for each request, from any
    thread. One bad adapter never hides a good one; no name is both served and refused, and an adapter that turns bad is
    refused, not served as it was. No two versions that may run at once have the same ``engine_id``.

    When its source cannot be reached, a registry goes on with what it has.
    """

    def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """Return the version that a call of ``name`` goes to now.

        Args:
            name: of an adapter, or what :class:`~aloraserve.adapters.catalog.reference.Reference` says where the
                registry has a catalog.
            tenant: who calls; what another tenant keeps private is unknown.
            key: what stands for the conversation: while an alias is shared by several versions, a conversation stays
                with one of them. Empty: by chance.

        Raises:
            UnknownModelError: no adapter is served under that name; names some that the tenant may call.
            RetiredAdapterError: it takes no new calls any more.
        """
        ...

    async def look_again(self) -> None:
        """Take in what the source has by now, as far as a look can: a name that is unknown here may be new elsewhere.

        Registries of different processes notice a change at different times; who registered an adapter through one
        gateway calls it through another. Cheap for any number of callers: looks are bounded, and shared.
        """
        ...

    def listed(self, tenant: str | None = None) -> Sequence[ServedName]:
        """Return every name that a tenant may call now, sorted; two tenants see each other's private names nowhere."""
        ...

    def sees(self, tenant: str | None, name: str) -> bool:
        """Whether a tenant may know that there is an adapter called ``name``, served or not."""
        ...

    async def begin(self) -> None:
        """Read the source for the first time, before :meth:`run`; a registry that has read it already does nothing."""
        ...

    async def find(self, ref: AdapterRef) -> AdapterVersion | None:
        """Return exactly that version, served here or not any more; looks at the source if it is not known here yet.

        Registries of different processes notice a change at different times: a gateway may send a version that a
        replica has not seen. None if it cannot be had; never a version with other content.
        """
        ...

    def all(self) -> Sequence[AdapterVersion]:
        """Return every version that a name or an alias stands for, sorted by name and digest."""
        ...

    def refused(self) -> Sequence[RefusedAdapter]:
        """Return every adapter that is not served, sorted by name."""
        ...

    def watch(self) -> AsyncIterator[RegistryChange]:
        """Yield the changes from now on, as they are noticed; the first is what is served already.

        For any number of watchers. A slow one gets several changes as one.
        """
        ...

    async def run(self) -> None:
        """Follow the source until cancelled."""
        ...

    async def close(self) -> None:
        """Release what the registry holds open."""
        ...
