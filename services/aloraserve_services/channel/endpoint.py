"""Where a replica takes calls, and what a gateway needs to be let in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from aloraserve_services.channel.messages import VERSION


class ChannelVersionError(Exception):
    """Raised when the two ends of a channel speak different versions."""

    def __init__(self, version: object) -> None:
        super().__init__(f"the replica's channel speaks version {version!r:.20}; this gateway speaks {VERSION}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica's own channel.

    Args:
        replica: its id.
        secret: what a gateway proves that it has.
        socket: path of a Unix socket, for gateways on the same machine.
        host: address for those on others; empty if it takes none.
        port: likewise.
        certificate: what the replica shows there, as PEM.
        version: of the messages.
    """

    replica: str
    secret: bytes = field(repr=False)
    socket: str
    host: str = ""
    port: int = 0
    certificate: str = field(default="", repr=False)
    version: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what :meth:`as_dict` was of; what a later version added is passed over.

        Raises:
            ChannelVersionError: the replica speaks another version.
        """
        if values.get("version") != VERSION:
            raise ChannelVersionError(values.get("version"))
        return cls(**{part.name: values[part.name] for part in fields(cls)})
