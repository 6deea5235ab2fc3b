"""The contract of what reads calls out of an answer."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import NamedTuple, Protocol

ID_CHARACTERS = 9
"""As Mistral's templates want them: letters and digits, nine of them."""
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class CallDelta:
    """Addition to one call of a function.

    Args:
        index: of the call within the answer.
        arguments: more of the JSON text of its arguments, as the model wrote it.
        id: of the call, on its first addition alone.
        name: of the function, likewise.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


class Heard(NamedTuple):
    """What a piece of an answer adds.

    Args:
        text: of the answer beside its calls.
        calls: additions to calls.
    """

    text: str = ""
    calls: tuple[CallDelta, ...] = ()


class ToolReader(Protocol):
    """Reads one choice's calls. What it returns adds up to the same, however the answer is cut into pieces."""

    def hear(self, text: str) -> Heard:
        """Return what the next piece of the answer adds; a marker that may be incomplete is held back."""
        ...

    def end(self) -> Heard:
        """Return what was held back, when the answer is over."""
        ...


def new_call_id() -> str:
    """Return an id for a call."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS))
