"""A platform that a command starts for itself, with adapters of its own, and stops at its end."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aloraserve.settings import Settings, is_set
from aloraserve_services.cli.console import Steps
from aloraserve_services.cli.options import ChosenSettings, check_result_file
from aloraserve_services.local.platform import LocalPlatform, local_platform
from aloraserve_services.models.untrained import twin_adapters

TLS_KEYS = ("tls_certificate", "tls_key", "tls_client_ca")
"""Not for a platform that only its own command calls."""


def own_settings(chosen: ChosenSettings, result: Path | None, **fixed: Any) -> Settings:
    """Return the settings of a command's own platform.

    Args:
        chosen: by the command's options.
        result: file that the command will write, if any.
        fixed: keys that the command sets.

    Raises:
        SettingsError: a setting is wrong, or the result's folder does not exist.
    """
    if chosen.flags.get("port") is None:
        fixed["port"] = _free_port_unless_set(chosen.config)
    settings = chosen.load(**fixed)
    check_result_file(result)
    return settings.model_copy(update={"adapters_dir": None} | dict.fromkeys(TLS_KEYS))


def _free_port_unless_set(config: Path | None) -> int | None:
    """Return a free port if none was chosen and the default one is taken: a demo should not fail for that."""
    if is_set("port") or config is not None:
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(Settings.model_fields["port"].default)))
        except OSError:
            return free_port()
    return None


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def own_platform(
    settings: Settings, steps: Steps | None = None, *, adapters_dir: Callable[[Path], Path | None] | None = None
) -> Iterator[LocalPlatform]:
    """Run a platform for the time of the context.

    Args:
        settings: see :func:`own_settings`.
        steps: progress; by default one that begins now.
        adapters_dir: makes the adapters' folder for the model's; by default that of equal twins with random weights.

    Raises:
        StartError: it does not start.
    """
    adapters_dir = adapters_dir or functools.partial(twin_adapters, settings.state_dir)
    with local_platform(settings, adapters_dir=adapters_dir, progress=steps or Steps()) as platform:
        yield platform
