"""TCP ports that a platform's processes listen on, and what each answers to who has no token."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass

import grpc
import httpx
import psutil

KINDS = {
    "gcs_server": "gcs_server",
    "raylet/raylet": "raylet",
    "autoscaler/": "monitor",
    "dashboard/dashboard.py": "dashboard",
    "DashboardAgent": "dashboard agent",
    "RuntimeEnvAgent": "runtime env agent",
    "ServeController": "controller",
    "ServeReplica:aloraserve:gateway": "gateway",
    "ServeReplica:aloraserve:engine": "engine",
    "EngineCore": "EngineCore",
    "multiprocessing.spawn": "EngineCore",
    "cli.main": "up",
}
"""Part of a process' command line -> its kind in ``docs/reference/ports.md``."""
METHODS = (
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "ray.rpc.NodeManagerService/GetNodeStats",
    "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.ReporterService/HealthCheck",
    "ray.serve.ASGIService/HandleRequest",
)
"""One of each gRPC service that Ray's processes have."""
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Listener:
    """A port that a process listens on."""

    kind: str
    pid: int
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    @property
    def target(self) -> str:
        """The address that reaches it from here."""
        return f"127.0.0.1:{self.port}"


def listeners(platform: psutil.Process) -> list[Listener]:
    """Return what a platform's process and all below it listen on, as /proc/net/tcp and tcp6 have it."""
    found = []
    for process in (platform, *platform.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            kind = _kind(process)
            found += [
                Listener(kind, process.pid, item.laddr.ip, item.laddr.port)
                for item in process.net_connections("tcp")
                if item.status == psutil.CONN_LISTEN
            ]
    return found


def grpc_answers(listener: Listener) -> set[grpc.StatusCode]:
    """Return what calls without a token are answered."""
    codes = set()
    with grpc.insecure_channel(listener.target) as channel:
        for method in METHODS:
            call = channel.unary_unary(f"/{method}", lambda empty: empty, lambda reply: reply)
            try:
                call(b"", timeout=TIMEOUT_S)
                codes.add(grpc.StatusCode.OK)
            except grpc.RpcError as error:
                codes.add(error.code())
                if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED):
                    # Not gRPC at all, or answered.
                    break
    return codes


def http_answer(listener: Listener, path: str = "/") -> int | None:
    """Return the status that a GET without a token is answered with, None where no HTTP is spoken."""
    try:
        return httpx.get(f"http://{listener.target}{path}", timeout=TIMEOUT_S, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    return next((kind for part, kind in KINDS.items() if part in command), command or process.name())
