"""A platform that runs: does it answer, on all its ports, and whom?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509

import aloraserve
from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.doctor.base import Finding, failed, ok, skipped, warning

GRPC_S = 3.0
MAX_TARGETS = 8
"""Processes whose metrics are asked for."""


def look_at_http(client: httpx.Client, settings: Settings) -> Iterator[Finding]:
    """Ask for health, version, models, replicas and metrics.

    Args:
        client: of the platform, with a key if there is one.
        settings: how many replicas there are to be.

    Raises:
        StartError: nothing answers.
    """
    health = client.get("/healthz")
    if health.status_code != 200:
        yield failed("platform", f"/healthz answers {health.status_code}", "see the gateway's log: `aloraserve logs`")
        return
    ready = client.get("/readyz")
    if ready.status_code == 200:
        yield ok("platform", f"ready at {client.base_url}")
    else:
        remedy = "no replica is up, or it drains: `aloraserve status`, `aloraserve logs`, `serve status`"
        yield failed("platform", f"/readyz answers {ready.status_code}", remedy)
    yield _version(client)
    yield _key(client)
    yield from _fleet(client, settings)


def _version(client: httpx.Client) -> Finding:
    try:
        found = str(client.get("/version").json()["aloraserve"])
    except (ValueError, KeyError, TypeError):
        raise StartError(f"{client.base_url} is not an aloraserve platform") from None
    here = aloraserve.__version__
    if found != here:
        return warning(
            "version", f"the gateway is {found}, and this command is {here}", "install the same on all machines"
        )
    return ok("version", found)


def _key(client: httpx.Client) -> Finding:
    status = client.get("/v1/models").status_code
    if status == 200:
        return ok("key", "models are listed")
    return failed(
        "key", f"/v1/models answers {status}", "set ALORASERVE_KEY to a key of the platform: `aloraserve keys list`"
    )


def _fleet(client: httpx.Client, settings: Settings) -> Iterator[Finding]:
    answer = client.get("/v1/replicas")
    if answer.status_code != 200:
        yield skipped("replicas", "an administrator's key is needed (ALORASERVE_KEY)")
        return
    yield _replicas(len(answer.json()["replicas"]), settings)
    yield _metrics(client.get("/v1/metrics/targets").json())


def _replicas(count: int, settings: Settings) -> Finding:
    least = settings.min_replicas if settings.autoscaling else settings.replicas
    if count == 0 and least:
        return failed(
            "replicas", "none is in the directory", "`aloraserve logs` of an engine says why it does not start"
        )
    if count < least:
        remedy = "`aloraserve logs`; on a cluster: enough CPUs and GPUs?"
        return warning("replicas", f"{count} of {least}{' at least' if settings.autoscaling else ''}", remedy)
    return ok("replicas", f"{count} live" if count else "none without calls: min_replicas is 0")


def _metrics(targets: Sequence[Mapping[str, Any]]) -> Finding:
    if not targets:
        return skipped("metrics", "they are off")
    silent = []
    for target in targets[:MAX_TARGETS]:
        address = str(target["targets"][0])
        try:
            is_there = httpx.get(f"http://{address}/metrics", timeout=GRPC_S, trust_env=False).status_code == 200
        except httpx.HTTPError:
            is_there = False
        if not is_there:
            silent.append(str(target["labels"].get("process", address)))
    if silent:
        remedy = "set metrics_host to an address that Prometheus reaches, and open the ports from metrics_port on to it"
        return failed("metrics", f"{', '.join(silent)} cannot be scraped from here", remedy)
    return ok("metrics", f"{min(len(targets), MAX_TARGETS)} processes answer scrapes")


def look_at_grpc(url: str, port: int, certificate: Path | None) -> Iterator[Finding]:
    """Ask the gRPC server for its health.

    Args:
        url: of the HTTP API, on the same host.
        port: of gRPC.
        certificate: the server's own, the only one that is trusted then; None: those that this machine trusts.
    """
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with _channel(url, port, certificate) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=GRPC_S)
        except grpc.RpcError as error:
            yield failed("grpc", f"port {port}: {error.code().name}", "set grpc_port for the platform too, and open it")
            return
    if answer.status == HealthCheckResponse.SERVING:
        yield ok("grpc", f"serves on port {port}")
    else:
        yield failed("grpc", f"port {port} says that it does not serve", "no replica is up, or it drains")


def _channel(url: str, port: int, certificate: Path | None) -> Any:
    import grpc

    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    if parts.scheme != "https":
        return grpc.insecure_channel(f"{host}:{port}", options=options)
    content = None if certificate is None else certificate.read_bytes()
    if content is not None:
        # On its own machine a server is known by its certificate, whatever name that has.
        options.append(("grpc.ssl_target_name_override", _name_in(content)))
    return grpc.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(content), options=options)


def _name_in(content: bytes) -> str:
    names = x509.load_pem_x509_certificate(content).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return next(str(getattr(name, "value", "")) for name in names.value)
