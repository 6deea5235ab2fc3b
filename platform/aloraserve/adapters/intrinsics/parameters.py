"""Parameters of a generation, as both kinds of spec write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aloraserve.adapters.intrinsics.documents import shown
from aloraserve.adapters.intrinsics.spec import IntrinsicParameters
from aloraserve.errors import InvalidAdapterError

MAX_ANSWER_TOKENS = 4096
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
_INT64 = 2**63
_NAMES = ("max_completion_tokens", "max_tokens", "temperature", "top_p", "seed", "stop")


def read_parameters(given: object, where: str) -> IntrinsicParameters:
    """Return checked parameters; None stands for none.

    Args:
        given: a mapping by the names that chat completions have.
        where: the file and the key, for errors.

    Raises:
        InvalidAdapterError: names the parameter, its value and what is accepted.
    """
    if given is None:
        return IntrinsicParameters()
    if not isinstance(given, Mapping):
        raise InvalidAdapterError(f"{where} is {shown(given)}; a mapping is accepted")
    unknown = next((name for name in given if name not in _NAMES), None)
    if unknown is not None:
        raise InvalidAdapterError(f"{where} has {shown(unknown)}; accepted are {', '.join(_NAMES)}")
    limits = {given[name] for name in _NAMES[:2] if given.get(name) is not None and not isinstance(given[name], list)}
    if len(limits) > 1:
        raise InvalidAdapterError(f"{where} has max_tokens and max_completion_tokens that differ; one is accepted")
    return IntrinsicParameters(
        max_tokens=_number(given, "max_completion_tokens", 1, MAX_ANSWER_TOKENS, where, whole=True)
        or _number(given, "max_tokens", 1, MAX_ANSWER_TOKENS, where, whole=True),
        temperature=_number(given, "temperature", 0, 2, where) or 0.0,
        top_p=_number(given, "top_p", 1e-6, 1, where),
        seed=_number(given, "seed", -_INT64, _INT64 - 1, where, whole=True),
        stop=_stops(given.get("stop"), where),
    )


def _number(given: Mapping[str, Any], name: str, least: float, most: float, where: str, *, whole: bool = False) -> Any:
    value = given.get(name)
    if value is None:
        return None
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if type(value) not in kinds or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise InvalidAdapterError(f"{where} has {name} {shown(value)}; {what} from {least} to {most} is accepted")
    return value if whole else float(value)


def _stops(value: object, where: str) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(map(_is_stop, stops)):
        raise InvalidAdapterError(
            f"{where} has stop {shown(value)}; up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters are "
            "accepted"
        )
    return tuple(stops)


def _is_stop(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_STOP_CHARACTERS
