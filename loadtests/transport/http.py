"""OpenAI's HTTP API with server-sent events; blocking sockets, which locust's gevent makes cooperative."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from urllib3.util.wait import wait_for_read

from loadtests.texts import Message
from loadtests.transport.base import Answer, CallError

TIMEOUT_S = 600.0
MAX_LINE_BYTES = 1 << 20


class HttpTransport:
    """See :class:`~loadtests.transport.base.Transport`.

    Args:
        url: of the platform, such as ``http://127.0.0.1:8000``.
        api_key: None for a platform without keys.

    Raises:
        ValueError: the URL is none that is accepted.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url[:80]!r}; http://host:port or https://host:port is needed")
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._idle: list[http.client.HTTPConnection] = []

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> Answer:
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            # Equal lengths in every arm: what an untrained adapter says may end at once.
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = self._connection()
        try:
            started = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", json.dumps(body), self._headers)
            answer = _answer(connection.getresponse(), started)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            connection.close()
            raise CallError(f"{type(error).__name__}: {str(error)[:200]}") from None
        except CallError:
            connection.close()
            raise
        self._idle.append(connection)
        return answer

    def models(self) -> list[str]:
        connection = self._connection()
        try:
            connection.request("GET", "/v1/models", headers=self._headers)
            response = connection.getresponse()
            content = json.loads(response.read())
            if response.status != 200:
                raise CallError(f"/v1/models answered {response.status}")
            return [str(one["id"]) for one in content["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise CallError(f"the platform does not answer: {type(error).__name__}") from None
        finally:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        """Return an idle connection that the server has not closed meanwhile, else a new one."""
        while self._idle:
            connection = self._idle.pop()
            # What is there to read on an idle connection is its end.
            if connection.sock is not None and not wait_for_read(connection.sock, timeout=0.0):
                return connection
            connection.close()
        return self._connect(self._host, self._port, timeout=TIMEOUT_S)


def _answer(response: http.client.HTTPResponse, started: float) -> Answer:
    if response.status != 200:
        raise CallError(f"answered {response.status}: {response.read(300).decode('utf-8', 'replace')}")
    text, usage = "", dict[str, Any]()
    ttft_s = last_s = 0.0
    is_whole = False
    while line := response.readline(MAX_LINE_BYTES):
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            is_whole = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise CallError(f"cut short: {str(event['error'].get('message'))[:200]}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            # A token that is a special one, as an untrained adapter's first often is, comes as empty content.
            if "role" not in choice["delta"]:
                last_s = time.perf_counter() - started
                ttft_s = ttft_s or last_s
            text += choice["delta"].get("content") or ""
    if not is_whole:
        raise CallError("cut short: the connection ended")
    return Answer(
        text=text,
        ttft_s=ttft_s,
        e2e_s=last_s,
        completion_tokens=int(usage["completion_tokens"]),
        prompt_tokens=int(usage["prompt_tokens"]),
        cached_tokens=int(usage["prompt_tokens_details"]["cached_tokens"]),
        replica=response.headers.get("x-aloraserve-replica", ""),
        prefill_s=_seconds(response.headers.get("x-aloraserve-prefill-ms")),
        saved_s=_seconds(response.headers.get("x-aloraserve-saved-ttft-ms")),
    )


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000
