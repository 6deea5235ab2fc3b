"""Problems of an adapter, each with what was found and what is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aloraserve.errors import InvalidAdapterError

MAX_SHOWN = 120


class ProblemCode(StrEnum):
    """Kinds of problems, stable for programs."""

    NAME = "name"
    FILE_MISSING = "file_missing"
    FILES_DEEPER = "files_deeper"
    FILE_LINK = "file_link"
    FILE_POINTER = "file_pointer"
    FILE_PICKLE = "file_pickle"
    FILE_UNREADABLE = "file_unreadable"
    FILE_TOO_LARGE = "file_too_large"
    JSON = "json"
    LEGACY = "legacy"
    CONFIG = "config"
    SIDECAR = "sidecar"
    INTRINSIC = "intrinsic"
    HEADER = "header"
    OTHER_BASE = "other_base"
    TENSOR_NAME = "tensor_name"
    TENSOR_EMPTY = "tensor_empty"
    TENSOR_SHAPE = "tensor_shape"
    TENSOR_TYPE = "tensor_type"
    TENSOR_VALUES = "tensor_values"
    TENSOR_PAIR = "tensor_pair"
    TENSOR_MISSING = "tensor_missing"
    NOT_SELECTED = "not_selected"
    NO_EFFECT = "no_effect"
    ROOM = "room"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why an adapter is not served.

    Args:
        code: what kind it is.
        file: the file at fault, as it is called in the adapter's folder; empty if it is none.
        found: what was found, as the end of a sentence about the file: "has r 99".
        accepted: what is accepted instead; empty if ``found`` says it.
    """

    code: ProblemCode
    file: str
    found: str
    accepted: str = ""

    @property
    def text(self) -> str:
        """The problem as a sentence."""
        return sentence(self.file, self.found, self.accepted)


def sentence(where: str, found: str, accepted: str) -> str:
    """Return a problem as a sentence.

    Args:
        where: a file, or a line of it; empty if it is none.
        found: the end of a sentence about it.
        accepted: what is accepted instead; empty if ``found`` says it.
    """
    said = f"{where} {found}" if where else found
    return f"{said}; accepted: {accepted}" if accepted else said


class AdapterFileError(InvalidAdapterError):
    """Raised when a file of an adapter cannot be used.

    Its cause is an OSError if another time may do better.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def shown(value: object) -> str:
    """Return a value for a message: printable ASCII, of bounded length."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def plain(text: str) -> str:
    """Return a text of others, of bounded length, with escapes for what cannot be printed."""
    escaped = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[: 4 * MAX_SHOWN])
    return escaped if len(text) <= 4 * MAX_SHOWN else f"{escaped}..."
