"""A port that the gateways of one fleet share on a machine, and that nobody else's server can share unnoticed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from aloraserve.errors import StartError

BACKLOG = 2048
"""Connections that wait to be accepted."""


class SharedPort:
    """A listening socket, and the proof that those who share its port are one fleet's.

    ``SO_REUSEPORT`` lets any process of the same user listen on a port beside another one: a second platform, or
    Serve's proxy, would silently take a part of the connections. So the first gateway binds without it, which fails if
    anybody listens there; those that follow know by a lock on a file that one of their own is there already.

    Args:
        host: an IP address, or ``localhost``.
        port: to listen on; 0 takes a free one.
        fleet: what the gateways that may share the port have in common.
        folder: where the lock files are; the same one for all of them on a machine.
        setting: key of the settings that chooses the port.
        is_listening: whether the socket listens; one that does not keeps the port for whoever does, in this process.

    Attributes:
        socket: of the port.

    Raises:
        StartError: somebody else listens there, or the address is not this machine's.
    """

    def __init__(
        self, host: str, port: int, fleet: str, folder: Path, *, setting: str = "port", is_listening: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(f"{fleet}\0{host}".encode(), digest_size=8).hexdigest()
        stem = folder / f"http-{port}-{digest}"
        self._presence = _open(stem.with_suffix(".lock"))
        try:
            with _locked(stem.with_suffix(".start")):
                is_first = _try_lock(self._presence)
                self.socket = _bind(host, port, is_first=is_first, setting=setting)
                if is_listening:
                    self.socket.listen(BACKLOG)
                # From now on others of the fleet may join.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                # Those that start later wait for the lock above, so nobody comes between.
                fcntl.flock(self._presence, fcntl.LOCK_SH)
        except BaseException:
            self._presence.close()
            raise

    def release(self) -> None:
        """Give up the claim; whoever closes the socket, usually a server, did so before."""
        self._presence.close()


def _bind(host: str, port: int, *, is_first: bool, setting: str) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not is_first:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise StartError(
            f"port {port} on {host} cannot be used ({error.strerror}): choose another with "
            f"--{setting.replace('_', '-')} or ALORASERVE_{setting.upper()}, or stop what listens there"
        ) from None
    listening.setblocking(False)
    return listening


def _open(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Held by all who share the port already.
        return False
    return True
