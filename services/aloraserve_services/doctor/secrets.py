"""Files with secrets: readable here, and by nobody else."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from aloraserve.redis.credentials import CredentialsFile
from aloraserve.redis.url import read_url
from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok, warning
from aloraserve_services.ray_authentication import TOKEN_PATH

WRITABLE, READABLE = stat.S_IWGRP | stat.S_IWOTH, stat.S_IROTH


def look_at_secrets(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Look at the mode of each file that has a secret.

    Args:
        settings: name most of them.
        config: the file that they come from, which may have keys.
    """
    for name, path in _files(settings, config).items():
        yield _look(f"file of {name}", name, path)
    if settings.state_dir.is_dir() and settings.state_dir.stat().st_mode & WRITABLE:
        yield failed(
            "state_dir", "others may write it", "chmod 700: who writes there has this user's processes read it"
        )


def look_at_keys(settings: Settings) -> Iterator[Finding]:
    """See whether anybody could be answered on the address that the API listens on."""
    if not settings.is_public or settings.api_keys or settings.pepper_path.exists():
        yield ok("keys", "none needed on a loopback address" if not settings.is_public else "there are some, or may be")
    else:
        yield warning(
            "keys", f"host is {settings.host}, and no key was made here: nobody is answered", "`aloraserve keys create`"
        )


def _files(settings: Settings, config: Path | None) -> dict[str, Path]:
    found: dict[str, Path | None] = {
        "config": config,
        "key_pepper_file": settings.pepper_path if settings.key_pepper_file or settings.pepper_path.exists() else None,
        "tls_key": settings.tls_key,
    }
    if os.environ.get(TOKEN_PATH):
        found[TOKEN_PATH] = Path(os.environ[TOKEN_PATH])
    for number, url in enumerate((settings.redis_url, *settings.cell_redis_urls)):
        # What is wrong with a URL is a finding of its own.
        with contextlib.suppress(ValueError):
            address = None if url is None else read_url(url.get_secret_value())
            if address is None:
                continue
            if isinstance(address.credentials, CredentialsFile):
                found[f"credentials_file {number}" if number else "credentials_file"] = address.credentials.path
            if address.tls is not None and address.tls.keyfile:
                found[f"ssl_keyfile {number}" if number else "ssl_keyfile"] = Path(address.tls.keyfile)
    return {name: path for name, path in found.items() if path is not None}


def _look(check: str, name: str, path: Path) -> Finding:
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except OSError as error:
        return failed(check, f"cannot be read: {error.strerror}", f"correct {name}, or let this user read the file")
    if is_empty:
        return failed(check, "is empty", f"write it, or take {name} out")
    shown = f"mode {stat.S_IMODE(mode):04o}"
    if mode & WRITABLE:
        return failed(check, f"{shown}: others may write it", "chmod 600, and a folder that others cannot write")
    if mode & READABLE:
        return warning(
            check, f"{shown}: every user may read it", "chmod 600; of a Kubernetes Secret, defaultMode: 0400"
        )
    return ok(check, shown)
