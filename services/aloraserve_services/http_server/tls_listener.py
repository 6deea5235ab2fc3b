"""A listener of TLS connections that counts them from the moment when they are accepted, not from their handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

import structlog

ACCEPT_AGAIN_S = 1.0
"""After the system had no file for a connection."""

log = structlog.get_logger(__name__)


class TlsListener:
    """Accepts connections and shakes hands. In the running event loop.

    When there is no room for another connection, the oldest one that has not shaken hands yet makes room: whoever means
    it takes milliseconds.

    Args:
        listening: bound, and closed by :meth:`close`.
        context: of its connections.
        make_protocol: makes the protocol of each.
        has_room: whether another connection may shake hands, beside so many that do.
        handshake_s: time for a handshake.
        backlog: connections that the kernel keeps until they are accepted.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        has_room: Callable[[int], bool],
        *,
        handshake_s: float,
        backlog: int,
    ) -> None:
        self.context = context
        self._listening = listening
        self._make_protocol = make_protocol
        self._has_room = has_room
        self._handshake_s = handshake_s
        # In the order in which they began.
        self._handshakes: dict[asyncio.Task[None], None] = {}
        listening.setblocking(False)
        listening.listen(backlog)
        self._accepting = asyncio.create_task(self._accept(), name="tls_listener")

    @property
    def handshakes(self) -> int:
        """Connections that have not shaken hands yet."""
        return len(self._handshakes)

    def check(self) -> None:
        """Raise if it has stopped by itself."""
        if self._accepting.done() and not self._accepting.cancelled():
            self._accepting.result()

    def close(self) -> None:
        """Accept no more; handshakes that have begun go on."""
        self._accepting.cancel()
        self._listening.close()

    def end_handshakes(self) -> None:
        """Close the connections that have not shaken hands."""
        for handshake in self._handshakes:
            handshake.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except ConnectionError:
                continue
            except OSError as error:
                log.warning("connection_not_accepted", cause=error.strerror)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        if not self._has_room(len(self._handshakes)):
            oldest = next(iter(self._handshakes), None)
            if oldest is None:
                connection.close()
                return
            del self._handshakes[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._shake_hands(connection))
        self._handshakes[task] = None
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _shake_hands(self, connection: socket.socket) -> None:
        # What goes wrong here is the client's; its connection is closed then.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol, connection, ssl=self.context, ssl_handshake_timeout=self._handshake_s
            )
