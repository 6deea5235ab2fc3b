"""Names by which calls and operators mean a version: ``safety``, ``safety@prod``, ``safety@3f9c01ab54de``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aloraserve.adapters.catalog.alias import CURRENT
from aloraserve.adapters.catalog.entry import SHOWN_DIGITS
from aloraserve.errors import InvalidRequestError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_DIGITS = re.compile(rf"[0-9a-f]{{{SHOWN_DIGITS},64}}")
ACCEPTED = f"a name, name@alias or name@version with at least {SHOWN_DIGITS} digits of the version"


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter's name, and which of its versions.

    Args:
        name: of the adapter.
        alias: one of its aliases, empty if ``digits`` say which version.
        digits: the first of the version's, empty if an alias says which.
        is_bare: whether the name stood alone.
    """

    name: str
    alias: str = CURRENT
    digits: str = ""
    is_bare: bool = False

    @classmethod
    def parse(cls, text: str) -> Reference | None:
        """Return what a text refers to, None if it is none of :data:`ACCEPTED`."""
        name, at, selector = text.partition("@")
        if not _NAME.fullmatch(name):
            return None
        if not at:
            return cls(name, is_bare=True)
        if _DIGITS.fullmatch(selector):
            return cls(name, alias="", digits=selector)
        return cls(name, selector) if _ALIAS.fullmatch(selector) else None

    @classmethod
    def read(cls, text: str, param: str = "adapter") -> Reference:
        """Return what a text refers to.

        Raises:
            InvalidRequestError: it is none of :data:`ACCEPTED`.
        """
        found = cls.parse(text)
        if found is None:
            raise InvalidRequestError(f"adapter {text[:80]!r} is not a reference; accepted is {ACCEPTED}", param=param)
        return found

    def __str__(self) -> str:
        return self.name if self.is_bare else f"{self.name}@{self.digits or self.alias}"


def check_alias(alias: str) -> None:
    """Pass the name of an alias.

    Raises:
        InvalidRequestError: it is not one, or could be taken for a version.
    """
    if not _ALIAS.fullmatch(alias) or _DIGITS.fullmatch(alias):
        raise InvalidRequestError(
            f"alias {alias[:80]!r} is not accepted: 1 to 32 lower-case letters, digits, '.', '_' and '-' are, the "
            f"first a letter or digit, that are not {SHOWN_DIGITS} or more digits of a version",
            param="alias",
        )
