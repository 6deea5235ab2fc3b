"""Settings from a YAML file, ``ALORASERVE_*`` variables and flags, in that order of precedence upward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aloraserve.errors import SettingsError
from aloraserve.settings.paths import expanded
from aloraserve.settings.settings import SECRETS, Settings
from aloraserve.settings.variables import KEY_VARIABLE, PREFIX, is_set, platform_variables
from aloraserve.settings.yaml_file import SettingsFile, kind_of, read_settings_file

_SECRET = SECRETS | {"adapter_sources"}
_REMOVED = {
    "overflow_wait_s": "engines begin the shortest waiting call first instead, see scheduling_policy and "
    "priority_ageing; no call is held back in the router any more",
    "allow_anonymous": "callers of a public address need keys, always; see api_keys and `aloraserve keys`",
}
"""Settings of earlier releases, and what replaced them."""


def load_settings(file: Path | None = None, **flags: Any) -> Settings:
    """Return the settings: flags over environment over file over defaults.

    Args:
        file: YAML, one mapping of keys of :class:`Settings`.
        flags: values given on the command line; None means not given.

    Raises:
        SettingsError: a key is unknown or its value is not accepted; names the key, where it came from, the value
            and what is accepted. Secrets are never shown.
    """
    return _load(file, {key: value for key, value in flags.items() if value is not None}, "flag")


def settings_from_arguments(
    arguments: Mapping[str, Any], file: Path | None = None, *, defaults: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of an application: arguments over environment over file over defaults.

    Args:
        arguments: plain values by key of :class:`Settings`.
        file: as in :func:`load_settings`.
        defaults: in the place of those of :class:`Settings`.

    Raises:
        SettingsError: as in :func:`load_settings`.
    """
    _refuse_unknown_keys(arguments, "args")
    return _load(file, arguments, "args", defaults or {})


def _load(
    path: Path | None, given: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None
) -> Settings:
    file = None if path is None else _read(path)
    in_environment = {key for key in Settings.model_fields if is_set(key)}
    _refuse_unknown_variables()
    below = dict(defaults or {}) | (file.values if file else {})
    merged = {key: value for key, value in below.items() if key not in in_environment} | dict(given)
    try:
        return Settings(**merged)
    except ValidationError as error:
        origins = dict.fromkeys(given, source) | {key: "environment" for key in in_environment if key not in given}
        raise SettingsError(_message(error, origins, file)) from None
    except ValueError as error:
        # pydantic-settings: a structured variable that is not JSON
        raise SettingsError(f"environment: {error}") from None


def _refuse_unknown_variables() -> None:
    known = {f"{PREFIX}{key.upper()}" for key in Settings.model_fields} | {f"{PREFIX}CONFIG", KEY_VARIABLE}
    unknown = sorted(name for name in platform_variables() if name.upper() not in known)
    if unknown:
        _refuse_removed(unknown[0].upper().removeprefix(PREFIX).lower(), "environment", unknown[0])
        raise SettingsError(f"unknown variable {unknown[0]}; known are {', '.join(sorted(known))}")


def _refuse_removed(key: str, source: str, name: str) -> None:
    if key in _REMOVED:
        raise SettingsError(f"{source}: {name} is not a setting any more: {_REMOVED[key]}; take it out")


def _refuse_unknown_keys(keys: Iterable[Any], source: str) -> None:
    unknown = sorted(str(key) for key in keys if key not in Settings.model_fields)
    if unknown:
        _refuse_removed(unknown[0], source, unknown[0])
        known = ", ".join(sorted(Settings.model_fields))
        raise SettingsError(f"{source}: unknown key {unknown[0][:80]!r}; known are {known}")


def _read(path: Path) -> SettingsFile:
    try:
        file = read_settings_file(expanded(path), _SECRET)
    except ValueError as error:
        raise SettingsError(f"config is {str(path)[:80]!r}: {error}") from None
    _refuse_unknown_keys(file.values, str(file.path))
    return file


def _message(error: ValidationError, origins: Mapping[str, str], file: SettingsFile | None) -> str:
    return "; ".join(_line(problem, origins, file) for problem in error.errors())


def _line(problem: ErrorDetails, origins: Mapping[str, str], file: SettingsFile | None) -> str:
    key, message = str(problem["loc"][0]) if problem["loc"] else "", problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    source = origins.get(key)
    if source is None and file is not None:
        return f"{file.path}: {key}{_shown(key, problem, file.words.get(key))}: {message}{_hint(problem)}"
    return f"{source or 'settings'}: {key}{_shown(key, problem, None)}: {message}"


def _shown(key: str, problem: ErrorDetails, word: str | None) -> str:
    if key in _SECRET:
        return ""
    value = str(problem["input"])
    return f" is {(value if word is None else word)[:80]!r}"


def _hint(problem: ErrorDetails) -> str:
    """Return what to do about text of which YAML has made something else."""
    found = kind_of(problem["input"]) if problem["type"] == "string_type" else None
    return "" if found is None else f"; YAML reads it as {found}: put it in quotes"
