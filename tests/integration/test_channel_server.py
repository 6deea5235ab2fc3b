"""Where a replica listens, and over TLS to whom a gateway speaks."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.channel_fleet import ChannelFleet, channel_fleet
from support.pool_replica import MARKED, call_of

from aloraserve.errors import StartError
from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.channel import server as server_module
from aloraserve_services.channel.connection import ChannelLostError, connect
from aloraserve_services.channel.credentials import server_context
from aloraserve_services.channel.server import ChannelServer


def listening() -> set[int]:
    """Return the TCP ports on which this process listens."""
    found = psutil.Process().net_connections("tcp")
    return {connection.laddr.port for connection in found if connection.status == psutil.CONN_LISTEN}


def nothing(call: EngineCall) -> Any:
    raise AssertionError("nobody calls")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_on_loopback_there_is_a_private_socket_and_no_port(host: str) -> None:
    before = listening()
    server = ChannelServer("a", nothing, 1)
    endpoint = await server.start(host)
    folder = Path(endpoint.socket).parent
    assert listening() == before
    assert (endpoint.host, endpoint.port, endpoint.certificate) == ("", 0, "")
    assert folder.stat().st_mode & 0o777 == 0o700
    server.check()
    server.close()
    assert not folder.exists()
    with pytest.raises(RuntimeError, match="does not listen"):
        server.check()


async def test_the_first_free_port_is_taken_and_an_address_of_all_is_the_node_s() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        server = ChannelServer("a", nothing, 1)
        endpoint = await server.start("0.0.0.0", port, "192.0.2.7")
        assert endpoint.host == "192.0.2.7"
        assert port < endpoint.port < port + server_module.PORTS_TRIED
        server.close()


async def test_where_no_port_is_free_the_error_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PORTS_TRIED", 1)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        server = ChannelServer("a", nothing, 1)
        with pytest.raises(StartError, match=f"channel_port is {port}, and neither it"):
            await server.start("0.0.0.0", port)
        server.close()


async def test_a_temporary_folder_with_a_long_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(server_module, "_MAX_PATH", len(str(tmp_path)))
    server = ChannelServer("a", nothing, 1)
    endpoint = await server.start()
    assert not endpoint.socket.startswith(str(tmp_path))
    assert not os.listdir(tmp_path)
    server.close()


async def test_a_certificate_that_is_not_the_replica_s_is_refused(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a", is_tls=True) as fleet:
        _, another = server_context()
        with pytest.raises(ChannelLostError, match="SSLCertVerificationError"):
            await connect(replace(fleet.endpoints["a"], certificate=another), lambda: None)
        connection = await connect(fleet.endpoints["a"], lambda: None)
        connection.close("done")


async def test_a_gateway_on_another_machine_learns_that_a_loopback_replica_is_out_of_reach(fleet: ChannelFleet) -> None:
    with pytest.raises(ChannelLostError, match="setting channel_host"):
        await connect(replace(fleet.endpoints["a"], socket="/none"), lambda: None)


@pytest.mark.parametrize("is_tls", [False, True], ids=["unix", "tls"])
async def test_a_prompt_of_a_million_tokens_arrives(tmp_path: Path, is_tls: bool) -> None:
    async with channel_fleet(tmp_path, "a", is_tls=is_tls) as fleet, fleet.gateway() as (pool, _):
        keys = [number.to_bytes(16) for number in range(1 << 15)]
        call = replace(call_of("marked-1"), token_ids=list(range(1 << 20)), keys=keys)
        async with pool.reserve(["a"]) as place:
            assert [reply async for reply in place.send(call)] == [MARKED]
