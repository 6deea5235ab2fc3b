"""The platform's own address: reachable from this machine, and free before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.local.address import authorization, base_url, check_port, check_ports


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("localhost", "http://127.0.0.1:8123"),
        ("0.0.0.0", "http://127.0.0.1:8123"),
        ("::", "http://[::1]:8123"),
        ("10.1.2.3", "http://10.1.2.3:8123"),
    ],
)
def test_an_address_that_means_all_interfaces_is_reached_by_loopback(host: str, url: str, tmp_path: Path) -> None:
    assert base_url(Settings(host=host, port=8123, api_keys={"acme": "a" * 16}, state_dir=tmp_path)) == url


def test_a_port_that_something_listens_on_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on 127.0.0.1 cannot be used"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_each_port_is_checked_and_its_setting_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as kept:
        taken = server.getsockname()[1]
        # Bound and not listened on: no other process gets it, and it can be bound again.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        free = Settings(state_dir=tmp_path, port=kept.getsockname()[1])
        for key, option in (
            ("port", "--port or ALORASERVE_PORT"),
            ("grpc_port", "--grpc-port or ALORASERVE_GRPC_PORT"),
        ):
            with pytest.raises(StartError, match=f"port {taken} on 127.0.0.1 cannot be used .*: .* {option}"):
                check_ports(free.model_copy(update={key: taken}))


def test_the_platforms_own_calls_carry_the_first_tenants_key(tmp_path: Path) -> None:
    assert authorization(Settings(state_dir=tmp_path)) == {}
    keys = {"acme": "a" * 16, "zeta": "z" * 16}
    assert authorization(Settings(api_keys=keys, state_dir=tmp_path)) == {"Authorization": f"Bearer {'a' * 16}"}
