"""Variables of the environment: which of them are settings, and which only look like one."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

PREFIX = "ALORASERVE_"
KEY_VARIABLE = f"{PREFIX}KEY"
"""A key for commands that ask a platform; not a setting."""


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


_LINKS = tuple(
    (re.compile(f"ALORASERVE(_[A-Z0-9_]+)?_{name}"), fits)
    for name, fits in (
        ("SERVICE_HOST", _is_address),
        (r"SERVICE_PORT(_[A-Z0-9_]+)?", re.compile(r"\d+").fullmatch),
        (r"PORT(_\d+_(TCP|UDP|SCTP))?", re.compile(r"(tcp|udp|sctp)://\S+").fullmatch),
        (r"PORT_\d+_(TCP|UDP|SCTP)_ADDR", _is_address),
        (r"PORT_\d+_(TCP|UDP|SCTP)_PORT", re.compile(r"\d+").fullmatch),
        (r"PORT_\d+_(TCP|UDP|SCTP)_PROTO", re.compile("tcp|udp|sctp").fullmatch),
    )
)
"""Names and values that ``pkg/kubelet/envvars`` of Kubernetes writes."""


def platform_variables() -> dict[str, str]:
    """Return the variables of this environment that are meant for the platform, known or not.

    Kubernetes describes each service of a namespace to its pods in variables that begin with the service's name: of
    ``aloraserve`` and ``aloraserve-gateway``, say, in names that settings have too. Those are passed over.
    """
    return {name: value for name, value in _own(os.environ) if not is_service_link(name, value)}


def is_set(key: str) -> bool:
    """Return whether a variable sets a key."""
    return f"{PREFIX}{key.upper()}" in {name.upper() for name in platform_variables()}


@contextlib.contextmanager
def hidden_variables(keys: Iterable[str]) -> Iterator[None]:
    """Take the variables of these settings out of the environment, so that no process started meanwhile has them."""
    hidden = forget_variables(keys)
    try:
        yield
    finally:
        os.environ.update(hidden)


def forget_variables(keys: Iterable[str]) -> dict[str, str]:
    """Take the variables of these settings out of the environment for good, and return them."""
    names = {f"{PREFIX}{key.upper()}" for key in keys} | {KEY_VARIABLE}
    return {name: os.environ.pop(name) for name in list(os.environ) if name.upper() in names}


def _own(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in variables.items() if name.upper().startswith(PREFIX))


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes has set a variable, for a service whose name begins like a setting's variable.

    Name and value have to fit, so that a mistyped setting is not taken for one.
    """
    return any(pattern.fullmatch(name.upper()) and fits(value) for pattern, fits in _LINKS)


class VariableSource(EnvSettingsSource):
    """The environment, without the variables that only look like settings."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        passed_over = {name.lower() for name, value in _own(os.environ) if is_service_link(name, value)}
        return {name: value for name, value in super()._load_env_vars().items() if name.lower() not in passed_over}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return what a variable's JSON means; of two equal keys neither is taken."""
        return json.loads(value, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)
