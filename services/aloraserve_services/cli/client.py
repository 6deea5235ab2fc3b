"""A client of the platform that times each streamed call; demo, calibration, benchmarks and load tests use it.

Blocking sockets: calls on one client may run at once in threads or, under locust, in gevent's greenlets.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3.util.wait import wait_for_read

from aloraserve.wire.answer_stream import AnswerStream, CallFailedError, StreamedAnswer

TIMEOUT_S = 600.0
MAX_LINE_BYTES = 1 << 20
_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError)


class StreamingClient:
    """Calls the HTTP API; keeps idle connections for later calls.

    Args:
        url: of the platform, such as ``http://127.0.0.1:8000``.
        headers: for every call, with the API key if there is one.
        body: fields of every call's body, beside those of a greedy, streamed call.
        is_elsewhere: the environment's proxy may be needed to reach it.

    Raises:
        ValueError: the URL is not accepted.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        body: Mapping[str, Any] = MappingProxyType({}),
        is_elsewhere: bool = False,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url[:80]!r}; http://host:port or https://host:port is needed")
        self._address = parts
        self._proxy = _proxy(parts) if is_elsewhere else None
        self._headers = {"content-type": "application/json", **headers}
        self._body = dict(body)
        self._idle: list[http.client.HTTPConnection] = []

    def __enter__(self) -> StreamingClient:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def chat(self, model: str, messages: list[dict[str, str]], max_tokens: int) -> StreamedAnswer:
        """Make a greedy chat call.

        Raises:
            CallFailedError: it was not answered, or not to the end.
        """
        return self._call("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": max_tokens})

    def complete(self, model: str, token_ids: list[int], max_tokens: int) -> StreamedAnswer:
        """Make a greedy completion call with exactly these prompt tokens.

        Raises:
            CallFailedError: it was not answered, or not to the end.
        """
        return self._call("/v1/completions", {"model": model, "prompt": token_ids, "max_tokens": max_tokens})

    def models(self) -> list[str]:
        """Return the names that are served, the base model's first.

        Raises:
            CallFailedError: the platform does not list them.
        """
        connection = self._connection()
        try:
            connection.request("GET", self._target("/v1/models"), headers=self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise CallFailedError(f"/v1/models answered {response.status}")
            return [str(model["id"]) for model in json.loads(response.read())["data"]]
        except _FAILURES as error:
            raise CallFailedError(f"the platform does not answer: {type(error).__name__}") from None
        finally:
            connection.close()

    def _call(self, path: str, fields: dict[str, Any]) -> StreamedAnswer:
        body = {**fields, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **self._body}
        connection = self._connection()
        try:
            stream = AnswerStream(time.perf_counter())
            connection.request("POST", self._target(path), json.dumps(body), self._headers)
            answer = _read(connection.getresponse(), stream)
        except _FAILURES as error:
            connection.close()
            raise CallFailedError(f"{path} failed: {type(error).__name__}: {str(error)[:200]}") from None
        except CallFailedError as error:
            connection.close()
            raise CallFailedError(f"{path} {error.message}") from None
        self._idle.append(connection)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        """Return an idle connection that the server has not closed meanwhile, else a new one."""
        while self._idle:
            connection = self._idle.pop()
            # What is there to read on an idle connection is its end.
            if connection.sock is not None and not wait_for_read(connection.sock, timeout=0.0):
                return connection
            connection.close()
        return self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        host, port = self._address.hostname or "", self._address.port
        if self._proxy is None:
            return kind(host, port, timeout=TIMEOUT_S)
        connection = kind(self._proxy.hostname or "", self._proxy.port, timeout=TIMEOUT_S)
        if self._address.scheme == "https":
            connection.set_tunnel(host, port)
        return connection

    def _target(self, path: str) -> str:
        """Return a request's target; a proxy of plain HTTP needs the whole address."""
        through_proxy = self._proxy is not None and self._address.scheme == "http"
        root = self._address.geturl() if through_proxy else self._address.path
        return root.rstrip("/") + path


def _read(response: http.client.HTTPResponse, stream: AnswerStream) -> StreamedAnswer:
    if response.status != 200:
        text = response.read(500).decode("utf-8", "replace")
        raise CallFailedError(f"answered {response.status}: {text}")
    while line := response.readline(MAX_LINE_BYTES):
        stream.read(line)
    return stream.answer({name.lower(): value for name, value in response.getheaders()})


def _proxy(address: SplitResult) -> SplitResult | None:
    """Return the environment's proxy for an address, if it names one."""
    found = getproxies().get(address.scheme)
    return None if found is None or proxy_bypass(address.hostname or "") else urlsplit(found)
