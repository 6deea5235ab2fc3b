"""Ray's servers run whatever code they are sent: they ask for a token, or nothing starts."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from aloraserve.errors import SettingsError

MODE, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"
OTHER_TOKENS = ("RAY_AUTH_TOKEN", "RAY_ENABLE_K8S_TOKEN_AUTH")
"""Variables that Ray would take another token from than the platform's own."""
TOKEN = "token"  # noqa: S105 - the name of the mode
log = structlog.get_logger(__name__)


def refuse_open_ray() -> None:
    """Raise SettingsError if the environment turns Ray's authentication off."""
    mode = os.environ.get(MODE, TOKEN)
    if mode.lower() != TOKEN:
        raise SettingsError(
            f"environment: {MODE} is {mode[:40]!r}: whoever reaches Ray's ports could run code here; unset it, or set "
            f"it to {TOKEN}"
        )


def authentication(token: Path) -> dict[str, str | None]:
    """Return what the environment of Ray's processes needs for servers that ask for this token; None takes it out.

    Args:
        token: file with the token.
    """
    return {MODE: TOKEN, TOKEN_PATH: str(token)} | dict.fromkeys(OTHER_TOKENS)


def asks_for_token() -> bool:
    """Return whether Ray's servers, as this process knows its Ray, ask for a token."""
    # Ray has no public name for it.
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def warn_of_open_ray() -> None:
    """Say so, if this process runs in a Ray whose servers ask for nothing: that is for whoever started it to change."""
    if not asks_for_token():
        log.warning(
            "ray_without_authentication",
            danger="whoever reaches Ray's ports can run code here and read every prompt and key",
            remedy=f"set {MODE}={TOKEN} in the environment of `ray start` on every node, and close its ports to others",
        )
