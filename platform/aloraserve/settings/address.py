"""IP addresses to listen on."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator


def is_public(host: str) -> bool:
    """Return whether an address can be reached from outside this machine."""
    return not _parsed(host).is_loopback


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)


def _checked(host: str) -> str:
    try:
        _parsed(host)
    except ValueError:
        raise ValueError("an IP address or localhost is needed") from None
    return host


Address = Annotated[str, AfterValidator(_checked)]
