"""A small client of the platform, over HTTP or gRPC, for programs that block and for those that do not.

::

    from aloraserve.client import Client

    with Client("grpc://127.0.0.1:9000", api_key="...") as client:
        for part in client.stream_chat("safety", [{"role": "user", "content": "hi"}]):
            print(part.text, end="")
"""

from aloraserve.client.answers import Answer, Part
from aloraserve.client.asynchronous import AsyncClient
from aloraserve.client.blocking import Client
from aloraserve.client.errors import CallError
from aloraserve.client.retries import Retries

__all__ = ["Answer", "AsyncClient", "CallError", "Client", "Part", "Retries"]
