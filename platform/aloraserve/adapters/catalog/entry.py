"""One registered version of an adapter: everything that is known of it without its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from aloraserve.adapters.base import AdapterKind, AdapterRef, AdapterVersion, Loading
from aloraserve.adapters.catalog.intrinsic_json import input_of, intrinsic_from_json, intrinsic_to_json, output_of
from aloraserve.adapters.intrinsics.spec import IntrinsicSpec
from aloraserve.adapters.invocation import InvocationMode
from aloraserve.blocks.keys import version_name

MAX_RANK = 512
MAX_OWNER_CHARACTERS = 200
MAX_TEXT_CHARACTERS = 4096
MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 63
MAX_HISTORY = 32
MAX_REASON_CHARACTERS = 300
SHOWN_DIGITS = 12
"""Digits of a version that names it to people; more are accepted, fewer are not."""

Visibility = Literal["public", "private"]


NAME_RULE = "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._/-]{{0,{MAX_LABEL_CHARACTERS - 1}}}")


LOADING_LABEL = "loading"
"""Label that says when replicas load a version."""
_LOADING: Mapping[str, Loading] = {"preloaded": "preloaded", "pinned": "pinned"}


class AdapterState(StrEnum):
    """Where a version is in its life, in this order."""

    REGISTERED = "registered"
    """Its files are in the store."""
    VALIDATED = "validated"
    """They passed the check."""
    AVAILABLE = "available"
    """It takes calls."""
    LOADED = "loaded"
    """It takes calls, and a replica has loaded it at least once; status says where it is now."""
    RETIRED = "retired"
    """It takes no new calls; those in flight end on it."""
    DELETED = "deleted"
    """It is not listed, and its files go once nothing uses them."""

    @property
    def is_callable(self) -> bool:
        """Whether new calls are taken."""
        return self in (AdapterState.AVAILABLE, AdapterState.LOADED)


class CatalogPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What all parts of the catalog's records have in common: values that do not change, strict in what is read."""


class StateChange(CatalogPart, frozen=True, kw_only=True):
    """A step of a version's life.

    Args:
        state: it went to.
        at: when, in seconds since 1970.
        reason: why.
    """

    state: AdapterState
    at: float
    reason: str = ""


class Invocation(CatalogPart, frozen=True, kw_only=True):
    """What makes an aLoRA act.

    Args:
        tokens: ids of the invocation, empty for a plain LoRA.
        text: that they come from, empty if it is not known.
        mode: how a prompt gets it; empty if it is not known.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    mode: str = ""


class AdapterEntry(CatalogPart, frozen=True, kw_only=True):
    """A version in the catalog. Name and version identify it for good; its state and labels change.

    Args:
        name: what ``model`` calls the adapter.
        version: hex SHA-256 of its content.
        kind: "alora" if it has an invocation, else "lora".
        base: fingerprint of the base model that it was checked for.
        rank: LoRA rank.
        alpha: LoRA alpha; 0 if it is not known.
        targets: names of the linears that it changes, sorted.
        invocation: of an aLoRA.
        intrinsic: what it asks and what its answers mean, as :mod:`.intrinsic_json` has it; None if its files do not
            say.
        untrained: whether its weights are random, for trying the platform out.
        owner: tenant that it belongs to, None for the platform's own.
        visibility: "private": only its owner sees and calls it.
        labels: chosen by whoever registered it.
        size_bytes: of its files.
        source: reference that it was fetched from, without secrets.
        history: its states with reason and time, the oldest first; never empty.
    """

    name: str
    version: str
    kind: AdapterKind
    base: str
    rank: int
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    invocation: Invocation = Invocation()
    intrinsic: dict[str, Any] | None = None
    untrained: bool = False
    owner: str | None = None
    visibility: Visibility = "public"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    size_bytes: int = 0
    source: str = ""
    history: tuple[StateChange, ...]

    @property
    def state(self) -> AdapterState:
        """Where it is in its life."""
        return self.history[-1].state

    @property
    def reason(self) -> str:
        """Why it is in that state."""
        return self.history[-1].reason

    @property
    def registered_at(self) -> float:
        """When it was registered, in seconds since 1970."""
        return self.history[0].at

    @property
    def shown(self) -> str:
        """The short name of this version, which calls may use as well."""
        return f"{self.name}@{self.version[:SHOWN_DIGITS]}"

    @property
    def input_form(self) -> str:
        """What a call gives it, for people."""
        return input_of(self.spec)

    @property
    def output_form(self) -> str:
        """What it answers, for people."""
        return output_of(self.spec)

    @property
    def ref(self) -> AdapterRef:
        """This version as it travels between processes."""
        return AdapterRef(self.name, self.kind, self.version)

    @property
    def engine_name(self) -> str:
        """The name of this version in engines."""
        return version_name(self.name, self.version)

    @property
    def problem(self) -> str | None:
        """What is wrong with an entry that somebody wrote, None if nothing is."""
        if not _NAME.fullmatch(self.name):
            return f"its name is {self.name[:80]!r}; {NAME_RULE} are accepted"
        if not _VERSION.fullmatch(self.version):
            return f"its version is {self.version[:80]!r}; 64 hex digits are accepted"
        if not 1 <= len(self.history) <= MAX_HISTORY:
            return f"its history has {len(self.history)} steps; 1 to {MAX_HISTORY} are accepted"
        if not 1 <= self.rank <= MAX_RANK:
            return f"its rank is {self.rank}; 1 to {MAX_RANK} are accepted"
        if self.owner is not None and not (self.owner.isprintable() and 1 <= len(self.owner) <= MAX_OWNER_CHARACTERS):
            return f"its owner is {self.owner[:80]!r}; 1 to {MAX_OWNER_CHARACTERS} printable characters are accepted"
        texts = (self.source, self.invocation.text, *(step.reason for step in self.history))
        if max(map(len, texts)) > MAX_TEXT_CHARACTERS:
            return f"it has a text of {max(map(len, texts))} characters; {MAX_TEXT_CHARACTERS} are accepted"
        # Terminals show these as they are; the text of an invocation may have line ends, and is shown as a literal.
        if unshown := next((text for text in (self.source, self.base, *self.targets) if not text.isprintable()), None):
            return f"it has the text {unshown[:80]!r}; printable characters are accepted"
        if problem := next(filter(None, (reason_problem(step.reason) for step in self.history)), None):
            return problem
        if self.visibility == "private" and self.owner is None:
            return "it is private and has no owner; one is needed"
        try:
            self.at(Path())
        except ValueError as error:
            return f"its intrinsic or its invocation cannot be read: {str(error)[:200]}"
        return label_problem(self.labels)

    def is_visible_to(self, tenant: str | None) -> bool:
        """Whether a tenant may see and call it."""
        return self.visibility == "public" or self.owner == tenant

    def moved(self, state: AdapterState, at: float, reason: str) -> Self:
        """Return it in another state; the oldest step and the latest are kept of a long life."""
        history = (*self.history, StateChange(state=state, at=at, reason=reason[:MAX_REASON_CHARACTERS]))
        if len(history) > MAX_HISTORY:
            history = (history[0], *history[1 - MAX_HISTORY :])
        return msgspec.structs.replace(self, history=history)

    def at(self, path: Path) -> AdapterVersion:
        """Return the version that engines load from ``path``.

        Raises:
            ValueError: its description or its invocation's mode is not one that this release knows.
        """
        return AdapterVersion(
            name=self.name,
            kind=self.kind,
            path=path,
            rank=self.rank,
            target_modules=self.targets,
            invocation_ids=self.invocation.tokens,
            digest=self.version,
            untrained=self.untrained,
            intrinsic=self.spec,
            invocation_text=self.invocation.text,
            invocation_mode=InvocationMode(self.invocation.mode) if self.invocation.mode else None,
            alpha=self.alpha,
            size_bytes=self.size_bytes,
            loading=_LOADING.get(self.labels.get(LOADING_LABEL, ""), "on demand"),
        )

    @property
    def spec(self) -> IntrinsicSpec | None:
        """What it asks and what its answers mean; raises like :meth:`at`."""
        return None if self.intrinsic is None else intrinsic_from_json(self.intrinsic)


def entry_parts(version: AdapterVersion) -> dict[str, Any]:
    """Return the parts of an entry that its files decide."""
    return {
        "name": version.name,
        "version": version.digest,
        "kind": version.kind,
        "rank": version.rank,
        "alpha": version.alpha,
        "size_bytes": version.size_bytes,
        "targets": version.target_modules,
        "invocation": Invocation(
            tokens=version.invocation_ids,
            text=version.invocation_text,
            mode=version.invocation_mode or "",
        ),
        "intrinsic": None if version.intrinsic is None else intrinsic_to_json(version.intrinsic),
        "untrained": version.untrained,
    }


def reason_problem(reason: str) -> str | None:
    """Return what is wrong with a reason, None if nothing is: terminals show it as it is."""
    if reason.isprintable() and len(reason) <= MAX_REASON_CHARACTERS:
        return None
    return f"its reason is {reason[:80]!r}; up to {MAX_REASON_CHARACTERS} printable characters are accepted"


def label_problem(labels: Mapping[str, str]) -> str | None:
    """Return what is wrong with labels, None if nothing is."""
    if len(labels) > MAX_LABELS:
        return f"it has {len(labels)} labels; {MAX_LABELS} are accepted"
    for label, value in labels.items():
        if not _LABEL.fullmatch(label) or not (_LABEL.fullmatch(value) or not value):
            return (
                f"it has the label {label[:80]!r} with {value[:80]!r}; 1 to {MAX_LABEL_CHARACTERS} letters, digits, "
                "'.', '_', '/' and '-' are accepted"
            )
    if (loading := labels.get(LOADING_LABEL)) is not None and loading not in _LOADING:
        return f"it has the label {LOADING_LABEL!r} with {loading!r}; {' and '.join(_LOADING)} are accepted"
    return None
