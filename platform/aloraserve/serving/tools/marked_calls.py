"""Calls as a model family writes them, read out of an answer that may also have text."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Sequence

from aloraserve.serving.tools.base import CallDelta, Heard, new_call_id
from aloraserve.serving.tools.call_object import CallObject
from aloraserve.serving.tools.formats import ToolFormat

_SPACES = " \n\r\t"
_BEFORE_A_CALL = f"{_SPACES}["


class _Place(enum.Enum):
    TEXT = enum.auto()
    """Before the first call."""
    MARKED = enum.auto()
    """Where a call is to begin."""
    CALL = enum.auto()
    REST = enum.auto()
    """Behind a call, before the next marker."""


class MarkedCalls:
    """Reads one answer; see :class:`~aloraserve.serving.tools.base.ToolReader`.

    Text before the first call is the answer's; what follows a call is not, as in vLLM's ``hermes``. What begins like a
    call and is none is given back as text.

    Args:
        form: of the calls.
        names: of the tools; a call without a marker has to name one.
        max_calls: those that follow are left out; None for any number.
        is_begun: whether the answer begins where a call is to begin, and needs no marker.
    """

    def __init__(
        self, form: ToolFormat, names: Collection[str], *, max_calls: int | None = None, is_begun: bool = False
    ) -> None:
        self._form = form
        self._names = names
        self._max_calls = max_calls
        self._place = _Place.MARKED if is_begun else _Place.TEXT
        self._may_be_bare = form.is_bare
        self._is_bare = False
        self._held = ""
        """What has not been read yet."""
        self._unsure = ""
        """What was read and becomes text if it turns out to be no call."""
        self._call = CallObject()
        self._named = 0
        self._is_named = False
        self._steps: dict[_Place, Callable[[list[str], list[CallDelta]], bool]] = {
            _Place.TEXT: self._read_text,
            _Place.MARKED: self._read_marked,
            _Place.CALL: self._read_call,
            _Place.REST: self._read_rest,
        }

    def hear(self, text: str) -> Heard:
        """See the contract."""
        texts: list[str] = []
        calls: list[CallDelta] = []
        self._held += text
        while self._held and self._steps[self._place](texts, calls):
            pass
        limit = len(calls) + self._named if self._max_calls is None else self._max_calls
        return Heard("".join(texts), tuple(call for call in calls if call.index < limit))

    def end(self) -> Heard:
        """See the contract."""
        text = "" if self._named else self._unsure + self._held
        self._held = self._unsure = ""
        return Heard(text)

    def _read_text(self, texts: list[str], calls: list[CallDelta]) -> bool:
        """Read up to the first marker; return whether there is more to read."""
        if self._may_be_bare:
            start = len(self._held) - len(self._held.lstrip(_SPACES))
            if start == len(self._held):
                return False
            self._may_be_bare = False
            if self._held[start] == "{":
                self._is_bare = True
                self._take(start)
                self._place = _Place.MARKED
                return True
        before, found = self._to_marker()
        texts.append(before)
        return found

    def _read_rest(self, texts: list[str], calls: list[CallDelta]) -> bool:
        return self._to_marker()[1]

    def _to_marker(self) -> tuple[str, bool]:
        """Return what stands before the next marker, and whether there is one; the begin of one stays held."""
        found = [(place, marker) for marker in self._form.openings if (place := self._held.find(marker)) >= 0]
        if found:
            place, marker = min(found)
            before, self._unsure, self._held = self._held[:place], marker, self._held[place + len(marker) :]
            self._place = _Place.MARKED
            return before, True
        end = len(self._held) - _overlap(self._held, self._form.openings)
        before, self._held = self._held[:end], self._held[end:]
        return before, False

    def _read_marked(self, texts: list[str], calls: list[CallDelta]) -> bool:
        if self._named:
            # Whatever stands between two calls.
            start = self._held.find("{")
            self._held = "" if start < 0 else self._held[start:]
        else:
            self._take(len(self._held) - len(self._held.lstrip(_BEFORE_A_CALL)))
        if not self._held:
            return False
        if self._held[0] != "{":
            self._give_back(texts)
            return True
        self._take(1)
        self._call, self._is_named = CallObject(), False
        self._place = _Place.CALL
        return True

    def _read_call(self, texts: list[str], calls: list[CallDelta]) -> bool:
        self._take(self._call.read(self._held))
        if not self._is_named and self._is_call():
            self._is_named = True
            self._unsure = ""
            calls.append(CallDelta(self._named, self._call.take_arguments(), new_call_id(), self._call.name))
            self._named += 1
        elif self._is_named and (arguments := self._call.take_arguments()):
            calls.append(CallDelta(self._named - 1, arguments))
        if not (self._call.is_over or self._call.is_malformed):
            return False
        if self._named:
            self._place = _Place.REST if self._form.closing else _Place.MARKED
        else:
            self._give_back(texts)
        return True

    def _is_call(self) -> bool:
        return self._call.name is not None and (not self._is_bare or self._call.name in self._names)

    def _take(self, count: int) -> None:
        """Note what was read, as long as it may have to be given back."""
        if not self._is_named:
            self._unsure += self._held[:count]
        self._held = self._held[count:]

    def _give_back(self, texts: list[str]) -> None:
        texts.append(self._unsure)
        self._unsure = ""
        self._place = _Place.TEXT


def _overlap(text: str, markers: Sequence[str]) -> int:
    """Return how many characters at a text's end may be the begin of a marker."""
    longest = max(map(len, markers), default=1) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(marker.startswith(text[-count:]) for marker in markers):
            return count
    return 0
