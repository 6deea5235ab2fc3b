"""A replica's channel: it listens for gateways and other replicas, on this machine and, if asked to, on others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import shutil
import socket
import tempfile
from pathlib import Path

import structlog

from aloraserve.errors import StartError
from aloraserve_services.channel.admission import Admission
from aloraserve_services.channel.credentials import new_secret, server_context
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.served_call import Generate
from aloraserve_services.channel.served_gateway import GREETING_S, ServedGateway
from aloraserve_services.channel.served_peer import WarmReplica

MAX_STRANGERS = 128
"""Connections that have not proved yet who they are; more are closed at once."""
PORTS_TRIED = 100
_MAX_PATH = 100
"""A Unix socket's path has room for 107 bytes."""
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on

log = structlog.get_logger(__name__)


class ChannelServer:
    """Answers the calls of any number of gateways. Started once, drained and closed at the end.

    Args:
        replica: its id.
        generate: answers a call.
        capacity: calls that are taken in at once.
        warm: answers questions of other replicas; None: nobody does.
    """

    def __init__(self, replica: str, generate: Generate, capacity: int, warm: WarmReplica | None = None) -> None:
        self._replica = replica
        self._generate = generate
        self._warm = warm
        self._secret = new_secret()
        self._admission = Admission(capacity)
        self._gateways: set[ServedGateway] = set()
        self._servers: list[asyncio.Server] = []
        self._folder: Path | None = None

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._admission.running

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._gateways)

    async def start(self, host: str = "127.0.0.1", port: int = 0, node_ip: str = "127.0.0.1") -> Endpoint:
        """Listen; return where, and what a gateway needs to be let in.

        Args:
            host: to listen on for gateways on other machines, over TLS; on a loopback address nobody listens, and
                gateways on this machine use a Unix socket.
            port: the first that is tried, of those that follow the first that is free. 0 lets the system choose.
            node_ip: address of this machine, which stands for a host of all addresses.

        Raises:
            StartError: none of the ports can be used.
        """
        loop = asyncio.get_running_loop()
        self._folder = _private_folder()
        path = str(self._folder / "s")
        self._servers.append(await loop.create_unix_server(self._gateway, path))
        endpoint = Endpoint(self._replica, self._secret, path)
        if not _is_loopback(host):
            context, certificate = server_context()
            listening = _listening(host, port)
            self._servers.append(
                await loop.create_server(self._gateway, sock=listening, ssl=context, ssl_handshake_timeout=GREETING_S)
            )
            address = node_ip if host in _ANY else host
            endpoint = Endpoint(self._replica, self._secret, path, address, listening.getsockname()[1], certificate)
        log.info("channel_listens", replica=self._replica, host=endpoint.host, port=endpoint.port)
        return endpoint

    def check(self) -> None:
        """Raise if nobody listens any more.

        Raises:
            RuntimeError: a listening socket is closed.
        """
        if not self._servers or not all(server.is_serving() for server in self._servers):
            raise RuntimeError("the channel does not listen any more")

    async def drain(self, within_s: float) -> None:
        """Take no further calls and wait for those that run.

        Args:
            within_s: how long at most.
        """
        self._admission.close()
        for gateway in self._gateways:
            gateway.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), within_s)

    def close(self) -> None:
        """Stop listening and close all connections; calls that run are ended."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for gateway in list(self._gateways):
            gateway.close("the replica ends")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _gateway(self) -> ServedGateway:
        return ServedGateway(
            self._secret, self._admission, self._generate, self._connected, self._gateways.discard, self._warm
        )

    def _connected(self, gateway: ServedGateway) -> None:
        self._gateways.add(gateway)
        if sum(not known.is_known for known in self._gateways) > MAX_STRANGERS:
            gateway.abort("too many connections have not proved who they are")


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="aloraserve-"))
    if len(str(folder)) <= _MAX_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="aloraserve-", dir="/tmp"))


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(port, min(port + PORTS_TRIED, 65536)) if port else (0,):
        try:
            return socket.create_server((host, number), family=family, backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"calls cannot be taken on {host} port {number}: {error.strerror}") from None
    raise StartError(f"channel_port is {port}, and neither it nor the {PORTS_TRIED - 1} after it are free on {host}")
