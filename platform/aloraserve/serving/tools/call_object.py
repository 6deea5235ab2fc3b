"""One call as JSON, ``{"name": ..., "arguments": {...}}``, read character by character as it is generated."""

from __future__ import annotations

import enum
from typing import Any

from msgspec import DecodeError, json

ARGUMENTS = frozenset({"arguments", "parameters"})
MAX_NAME_CHARACTERS = 256
"""What is longer is not taken for a function's name: nobody could send it back."""
_NAME = "name"
_SPACES = " \n\r\t"
_NO_ARGUMENTS = "{}"


class _State(enum.Enum):
    NAME = enum.auto()
    IN_NAME = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    IN_VALUE = enum.auto()
    COMMA = enum.auto()


class CallObject:
    """Reads an object behind its opening brace. Each character is looked at once.

    Attributes:
        name: of the function, once it is known.
        is_over: whether the closing brace was read.
        is_malformed: whether this is not the JSON of a call; what follows is not read.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.is_over = False
        self.is_malformed = False
        self._state = _State.NAME
        self._value = JsonValue()
        self._key = ""
        self._arguments: list[str] = []
        self._has_arguments = False

    def read(self, text: str, start: int = 0) -> int:
        """Read on; return the place behind the object's end, the text's length while it goes on.

        Args:
            text: that has more of the object.
            start: place in it.
        """
        place = start
        while place < len(text) and not (self.is_over or self.is_malformed):
            place += self._step(text[place])
        return place

    def take_arguments(self) -> str:
        """Return what is new of the arguments' JSON; nothing before the name is known."""
        if self.name is None:
            return ""
        if self.is_over and not self._has_arguments:
            self._has_arguments = True
            return _NO_ARGUMENTS
        taken, self._arguments = "".join(self._arguments), []
        return taken

    def _step(self, character: str) -> int:
        """Read one character; return 0 if it has to be read again in the new state."""
        match self._state:
            case _State.IN_NAME:
                self._in_name(character)
            case _State.IN_VALUE:
                return self._in_value(character)
            case _ if character in _SPACES:
                pass
            case _State.VALUE:
                self._value = JsonValue()
                self._state = _State.IN_VALUE
                return 0
            case _:
                self._between(character)
        return 1

    def _between(self, character: str) -> None:
        if character == "}" and self._state in (_State.NAME, _State.COMMA):
            self.is_over = True
        elif character == '"' and self._state is _State.NAME:
            self._value = JsonValue()
            self._value.add(character)
            self._state = _State.IN_NAME
        elif character == ":" and self._state is _State.COLON:
            self._state = _State.VALUE
        elif character == "," and self._state is _State.COMMA:
            self._state = _State.NAME
        else:
            self.is_malformed = True

    def _in_name(self, character: str) -> None:
        self._value.add(character)
        if self._value.is_over:
            self._key = str(_decoded(self._value.text))
            self._state = _State.COLON

    def _in_value(self, character: str) -> int:
        taken = self._value.add(character)
        is_streamed = self._key in ARGUMENTS and self._value.is_container
        if is_streamed and taken:
            self._has_arguments = True
            self._arguments.append(character)
        if self._value.is_malformed:
            self.is_malformed = True
        elif self._value.is_over:
            self._state = _State.COMMA
            if not is_streamed:
                self._keep(_decoded(self._value.text))
        return int(taken)

    def _keep(self, value: Any) -> None:
        if self._key == _NAME and isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARACTERS:
            self.name = value
        elif self._key == _NAME:
            self.is_malformed = True
        elif self._key in ARGUMENTS and isinstance(value, str):
            # Some models write the arguments' JSON into a string.
            self._has_arguments = True
            self._arguments.append(value)


class JsonValue:
    """The text of one JSON value.

    Attributes:
        is_container: whether it is an object or a list.
        is_over: whether it has ended.
        is_malformed: whether it is not a value.
    """

    def __init__(self) -> None:
        self.is_container = self.is_over = self.is_malformed = False
        self._characters: list[str] = []
        self._is_string = self._in_string = self._is_escaped = False
        self._open: list[str] = []

    @property
    def text(self) -> str:
        """What was read of a value that is not a container."""
        return "".join(self._characters)

    def add(self, character: str) -> bool:
        """Read a character; return whether it belongs to the value."""
        if self._in_string:
            self._add_to_string(character)
        elif not self._is_started:
            self._start(character)
        elif self.is_container:
            self._add_to_container(character)
        elif character in ",}]" or character in _SPACES:
            # A number or a word ends with what follows it.
            self.is_over = True
            return False
        if not self.is_container:
            self._characters.append(character)
        return True

    @property
    def _is_started(self) -> bool:
        return self.is_container or bool(self._characters)

    def _start(self, character: str) -> None:
        if character in "{[":
            self.is_container = True
            self._open.append(character)
        elif character == '"':
            self._is_string = self._in_string = True
        elif character in ",:}]":
            self.is_malformed = True

    def _add_to_string(self, character: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
            self.is_over = self._is_string

    def _add_to_container(self, character: str) -> None:
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._open.append(character)
        elif character in "}]":
            self.is_malformed = self._open.pop() + character not in ("{}", "[]")
            self.is_over = not self._open


def _decoded(text: str) -> Any:
    try:
        return json.decode(text)
    except (DecodeError, RecursionError):
        return None
