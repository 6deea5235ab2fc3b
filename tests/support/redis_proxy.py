"""A server between a client and a Redis: it delays replies, or changes them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def redis_proxy(
    socket_path: str, *, delay_s: float = 0.0, change: Callable[[bytes], bytes] = lambda reply: reply
) -> Iterator[str]:
    """Yield the URL of a server that passes everything on to another one.

    Args:
        socket_path: of the other one.
        delay_s: of each reply.
        change: makes another reply of one.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        # Ends when the listener is closed.
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(socket_path)
                threading.Thread(target=_copy, args=(client, server, 0.0, lambda data: data), daemon=True).start()
                threading.Thread(target=_copy, args=(server, client, delay_s, change), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _copy(source: socket.socket, target: socket.socket, delay_s: float, change: Callable[[bytes], bytes]) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(1 << 16):
            time.sleep(delay_s)
            target.sendall(change(data))
