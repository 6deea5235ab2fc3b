"""The address at which a process shows its metrics to Prometheus."""

from __future__ import annotations

import errno
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from aloraserve.errors import StartError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PORTS_TRIED = 100
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_PATHS = ("/", "/metrics")
_TIMEOUT_S = 10.0


class ServedMetrics(NamedTuple):
    """Metrics that are shown.

    Args:
        address: for others.
        close: ends it.
    """

    address: str
    close: Callable[[], None]


def serve_metrics(host: str, port: int, node_ip: str, registry: CollectorRegistry = REGISTRY) -> ServedMetrics:
    """Answer scrapes on a thread of its own until that is closed, or the process ends.

    The format is always Prometheus' text: prometheus-client's own server, asked for OpenMetrics as Prometheus asks,
    writes ``vllm:`` as ``vllm_``.

    Args:
        host: to listen on.
        port: the first that is tried; of those that follow the first that is free. 0 lets the system choose.
        node_ip: address of this node, which stands for a host of all addresses.
        registry: what to show.

    Raises:
        StartError: none of the ports can be used.
    """
    host = "127.0.0.1" if host == "localhost" else host
    server = _listening(host, port, registry)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    address = _address(node_ip if host in _ANY else host, server.server_port)

    def close() -> None:
        server.shutdown()
        server.server_close()

    return ServedMetrics(address, close)


def _listening(host: str, port: int, registry: CollectorRegistry) -> ThreadingHTTPServer:
    tried = range(port, min(port + PORTS_TRIED, 65536)) if port else (0,)
    for number in tried:
        try:
            return _server(host, number, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"metrics cannot be served on {host} port {number}: {error.strerror}") from None
    raise StartError(f"metrics_port is {port}, and neither it nor the {PORTS_TRIED - 1} after it are free on {host}")


def _server(host: str, port: int, registry: CollectorRegistry) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def server_bind(self) -> None:
            # Without the host's full name, which may take a name server's time.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = host, int(self.server_address[1])

    class Handler(_Handler):
        shown = registry

    return Server((host, port), Handler)


class _Handler(BaseHTTPRequestHandler):
    shown: CollectorRegistry
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in _PATHS:
            self.send_error(404)
            return
        content = generate_latest(self.shown)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds is not an event."""


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
