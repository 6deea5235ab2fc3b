"""Settings from a YAML file, ``ALORASERVE_*`` variables and flags, in that order of precedence upward."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aloraserve.errors import SettingsError
from aloraserve.settings.settings import KEYS, Settings

MAX_FILE_BYTES = 1 << 20
_SECRET = frozenset({*KEYS, "redis_url", "cell_redis_urls", "adapter_sources"})
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
    file: Path | None, given: Mapping[str, Any], source: str, defaults: Mapping[str, Any] | None = None
) -> Settings:
    from_file = _read(file) if file else {}
    variables = {name.upper() for name in os.environ}
    in_environment = {key for key in Settings.model_fields if f"ALORASERVE_{key.upper()}" in variables}
    _refuse_unknown_variables()
    below = dict(defaults or {}) | from_file
    merged = {key: value for key, value in below.items() if key not in in_environment} | dict(given)
    try:
        return Settings(**merged)
    except ValidationError as error:
        origin = dict.fromkeys(given, source)
        raise SettingsError(_message(error, origin, in_environment, file)) from None
    except ValueError as error:
        # pydantic-settings: a structured variable that is not JSON
        raise SettingsError(f"environment: {error}") from None


def _refuse_unknown_variables() -> None:
    known = {f"ALORASERVE_{key.upper()}" for key in Settings.model_fields} | {"ALORASERVE_CONFIG"}
    unknown = sorted(key for key in os.environ if key.upper().startswith("ALORASERVE_") and key.upper() not in known)
    if unknown:
        _refuse_removed(unknown[0].upper().removeprefix("ALORASERVE_").lower(), "environment", unknown[0])
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


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        # PyYAML's own message quotes the text, which may be a key.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{file}: not YAML{where}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: cannot be read: {type(error).__name__}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SettingsError(f"{file}: holds a {type(content).__name__}; a mapping of settings is needed")
    _refuse_unknown_keys(content, str(file))
    return {str(key): value for key, value in content.items()}


def _message(error: ValidationError, origin: dict[str, str], in_environment: set[str], file: Path | None) -> str:
    lines = []
    for problem in error.errors():
        key = str(problem["loc"][0]) if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ")
        if not key:
            lines.append(message)
            continue
        source = origin.get(key) or ("environment" if key in in_environment else str(file) if file else "settings")
        shown = "" if key in _SECRET else f" is {str(problem['input'])[:80]!r}"
        lines.append(f"{source}: {key}{shown}: {message}")
    return "; ".join(lines)
