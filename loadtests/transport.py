"""How a load test calls the platform: one streamed call, timed as a client sees it.

For use inside locust: a call blocks its greenlet alone, and any number may run at once on one transport.
"""

from __future__ import annotations

from typing import Protocol

from aloraserve.wire.answer_stream import StreamedAnswer
from aloraserve_services.cli.client import StreamingClient
from loadtests.texts import Message

BODY = {"ignore_eos": True}
"""Equal lengths in every arm: an untrained adapter's answer may end at once."""


class Transport(Protocol):
    """See the module's docstring."""

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> StreamedAnswer:
        """Make a greedy, streamed chat call.

        Raises:
            CallFailedError: it was not answered, or not to the end.
        """
        ...

    def models(self) -> list[str]:
        """Return the names that are served, the base model's first.

        Raises:
            CallFailedError: the platform does not list them.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def open_transport(url: str, api_key: str | None = None, grpc_target: str | None = None) -> Transport:
    """Return a transport over HTTP, or over gRPC if that has an address.

    Args:
        url: of the platform, such as ``http://127.0.0.1:8000``.
        api_key: None for a platform without keys.
        grpc_target: ``host:port`` of its gRPC API, None for calls over HTTP.

    Raises:
        ValueError: the URL is not accepted.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    http = StreamingClient(url, headers, body=BODY)
    if grpc_target is None:
        return http
    # grpc is imported, and changed to wait in greenlets, only where it is used.
    from loadtests.grpc_transport import GrpcTransport, cooperate

    cooperate()
    return GrpcTransport(grpc_target, http, api_key)
