"""Which modules of the base model a config selects, by PEFT's rules (``peft/tuners/tuners_utils.py``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from aloraserve.adapters.checks.patterns import matching
from aloraserve.adapters.peft_files import CONFIG_FILE
from aloraserve.adapters.problems import Problem, ProblemCode, shown
from aloraserve.adapters.shape import BaseShape

MAX_TARGETS = 4096
_LAYER_WORD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class SelectionError(Exception):
    """Raised when a config selects nothing that can be served; has the problem."""

    def __init__(self, key: str, found: object, accepted: str) -> None:
        super().__init__(key)
        self.problem = Problem(ProblemCode.CONFIG, CONFIG_FILE, f"has {key} {found}", accepted)


def selected(config: Mapping[str, Any], base: BaseShape) -> frozenset[str]:
    """Return the modules that PEFT would put the adapter on.

    Args:
        config: with ``target_modules``, ``exclude_modules``, ``layers_to_transform`` and ``layers_pattern``.
        base: the model.

    Raises:
        SelectionError: it selects nothing, or something else than linears, or is not valid.
    """
    targets = config.get("target_modules")
    names = base.modules.keys() | base.others
    found = _targeted(targets, names, base) - _excluded(config.get("exclude_modules"), names)
    layers = _layers(config, is_expression=isinstance(targets, str))
    found = frozenset(name for name in found if layers is None or _layer(name, config) in layers)
    if not found:
        raise SelectionError("target_modules", f"{shown(targets)}, which selects nothing", _accepted(base))
    if wrong := sorted(found - base.modules.keys()):
        raise SelectionError("target_modules", f"{shown(targets)}, which selects {shown(wrong[0])}", _accepted(base))
    return found


def _targeted(targets: object, names: Iterable[str], base: BaseShape) -> frozenset[str]:
    if isinstance(targets, str):
        if targets.lower() == "all-linear":
            return frozenset(base.modules)
        return _matching("target_modules", targets, names)
    ends = _words("target_modules", targets, _accepted(base))
    for end in ends:
        if not _ending((end,), base.modules):
            raise SelectionError("target_modules with", shown(end), _accepted(base))
    return _ending(ends, names)


def _excluded(excluded: object, names: Iterable[str]) -> frozenset[str]:
    if not excluded:
        return frozenset()
    if isinstance(excluded, str):
        return _matching("exclude_modules", excluded, names)
    return _ending(_words("exclude_modules", excluded, "a list of module names or a regular expression"), names)


def _matching(key: str, pattern: str, names: Iterable[str]) -> frozenset[str]:
    try:
        return matching(pattern, names)
    except ValueError as error:
        raise SelectionError(key, f"{shown(pattern)}, which {error}", "a list of module names") from error


def _words(key: str, value: object, accepted: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TARGETS:
        raise SelectionError(key, shown(value), accepted)
    wrong = [word for word in value if not isinstance(word, str) or not word]
    if wrong:
        raise SelectionError(f"{key} with", shown(wrong[0]), accepted)
    return tuple(value)


def _ending(ends: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """Return the names that are one of ``ends``, or end in one after a dot."""
    tails = tuple(f".{end}" for end in ends)
    return frozenset(name for name in names if f".{name}".endswith(tails))


def _layers(config: Mapping[str, Any], *, is_expression: bool) -> frozenset[int] | None:
    """Return the layers that the config is limited to; None for no limit."""
    value, pattern = config.get("layers_to_transform"), config.get("layers_pattern")
    if is_expression and (value is not None or pattern is not None):
        raise SelectionError(
            "layers_to_transform or layers_pattern", "beside an expression", "target_modules as a list"
        )
    if pattern and value is None:
        raise SelectionError("layers_pattern", f"{shown(pattern)} alone", "it with layers_to_transform")
    for word in _layer_words(pattern):
        if not isinstance(word, str) or not _LAYER_WORD.fullmatch(word):
            raise SelectionError("layers_pattern", shown(pattern), "a name such as 'layers'")
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise SelectionError("layers_to_transform", shown(value), "a layer or a list of layers")
    return frozenset(numbers)


def _layer_words(pattern: object) -> list[object]:
    if pattern is None or pattern == "":
        return []
    return pattern if isinstance(pattern, list) else [pattern]


def _layer(name: str, config: Mapping[str, Any]) -> int | None:
    """Return the layer that PEFT takes a module to be in."""
    words = _layer_words(config.get("layers_pattern"))
    expressions = [rf"(?:^|.*?\.){word}\.(\d+)\." for word in words] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((match for match in (re.match(expression, name) for expression in expressions) if match), None)
    return None if found is None else int(found[1])


def _accepted(base: BaseShape) -> str:
    return f"linears of the base model: {', '.join(base.linears())}"
