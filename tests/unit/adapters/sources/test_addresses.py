"""Which addresses are connected to, and that it is the address that was checked."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from aloraserve.adapters.sources.addresses import ForbiddenAddressError, guarded_pool, is_public


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "192.0.0.192", "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::",
        "::1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:0:53aa:64c::1",
    ],
)  # fmt: skip
def test_other_addresses_are_not_in_whatever_form(address: str) -> None:
    assert not is_public(address)


class Names:
    """A resolver whose answers change, and a record of what was connected to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.connected: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        monkeypatch.setattr(socket.socket, "connect", lambda _, address: self.connect(address))

    def resolve(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        try:
            socket.inet_aton(host)
            found = [host]
        except OSError:
            found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def connect(self, address: tuple[str, int]) -> None:
        self.connected.append(address[0])
        raise ConnectionRefusedError


def ask(url: str, *listed: tuple[str, int]) -> None:
    guarded_pool(lambda host, port: (host, port) in listed).request("GET", url)


def test_a_name_that_leads_to_a_private_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, ["93.184.216.34", "169.254.169.254"])
    with pytest.raises(ForbiddenAddressError):
        ask("https://evil.example/")
    assert names.connected == []


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    with pytest.raises(Exception, match="Failed to establish"):
        ask("https://rebinds.example/")
    assert names.connected == ["93.184.216.34"]


def test_without_tls_only_listed_hosts_are_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, ["93.184.216.34"])
    with pytest.raises(ForbiddenAddressError):
        ask("http://public.example/")
    with pytest.raises(Exception, match="Failed to establish"):
        ask("http://public.example/", ("public.example", 80))
    assert names.connected == ["93.184.216.34"]


def test_a_listed_host_may_have_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, ["10.0.0.5"])
    with pytest.raises(Exception, match="Failed to establish"):
        ask("https://cdn.internal/", ("cdn.internal", 443))
    assert names.connected == ["10.0.0.5"]
