"""HTTP connections that go to public addresses only, or to hosts that the operator lists.

The address that is checked is the one that is connected to: a name whose answer changes between the check and the
connection (DNS rebinding) gains nothing. Proxies of the environment are not used: they would resolve the names.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_CLOUDS_OWN = tuple(ipaddress.ip_network(each) for each in ("192.0.0.0/24", "168.63.129.16/32"))
"""Metadata services of Oracle's and Microsoft's clouds, whose addresses look public; the others' are link-local."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

ListsHost = Callable[[str, int], bool]
"""Whether the operator lists a host and port by name."""


class ForbiddenAddressError(Exception):
    """Raised when a host that the operator does not list has an address that is not public, or no TLS."""


def is_public(address: str) -> bool:
    """Whether an address is one of the internet: not private, loopback, link-local, metadata, multicast or reserved.

    An IPv6 address that stands for an IPv4 one counts as that.
    """
    # An interface's zone, as in fe80::1%eth0, does not belong to the address.
    found = ipaddress.ip_address(address.partition("%")[0])
    meant = found if isinstance(found, ipaddress.IPv4Address) else _embedded(found) or found
    if any(meant in network for network in _CLOUDS_OWN):
        return False
    return meant.is_global and not meant.is_multicast and not meant.is_reserved


def guarded_pool(lists_host: ListsHost) -> PoolManager:
    """Return connections for one fetch, whoever follows redirects on them.

    Args:
        lists_host: such a host may have any address, and be without TLS.
    """

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            if not lists_host(self.host, self.port):
                raise ForbiddenAddressError
            return super()._new_conn()

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            if lists_host(self.host, self.port):
                return super()._new_conn()
            name = self._dns_host
            try:
                # Connects to the address that was checked; TLS goes on with the name.
                self._dns_host = _public_address(name, self.port)
                return super()._new_conn()
            except socket.gaierror as error:
                raise NameResolutionError(name, self, error) from error
            finally:
                self._dns_host = name

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pool = PoolManager(timeout=Timeout(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), retries=False)
    pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return pool


def _public_address(host: str, port: int) -> str:
    """Return the address to connect to; none if one of a name's addresses is not public."""
    found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(address) for address in found):
        raise ForbiddenAddressError
    return found[0]


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to."""
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    return address.ipv4_mapped or address.sixtofour or nat64
