"""A platform's dtype: read from its list of models, and None wherever that does not say it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve.wire import ModelList
from aloraserve_services.training.evaluation import EvaluationRequest
from aloraserve_services.training.evaluation_facts import platform_text
from aloraserve_services.training.platform_dtype import platform_dtype
from aloraserve_services.training.served_answers import PlatformTarget

KEY = "a-key"


@pytest.fixture
def platform() -> Iterator[tuple[PlatformTarget, list[bytes]]]:
    """A server whose list of models can be set, for callers with the key."""
    body: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = (self.path, self.headers["Authorization"]) == ("/v1/models", f"Bearer {KEY}")
            self.send_response(200 if is_known else 401)
            self.end_headers()
            self.wfile.write(body[0] if is_known else b"{}")

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield PlatformTarget(f"http://127.0.0.1:{server.server_port}/", "safety", api_key=KEY), body
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_what_the_gateways_list_of_models_says(platform: tuple[PlatformTarget, list[bytes]], dtype: str) -> None:
    target, body = platform
    body[:] = [ModelList.of("base", (), created=1, dtype=dtype).to_json().encode()]
    assert platform_dtype(target) == dtype
    assert platform_dtype(replace(target, api_key=None)) is None


@pytest.mark.parametrize("said", [b"", b"[]", b'{"data": []}', b'{"data": [{}]}', b'{"data": [{"dtype": ["x"]}]}'])
def test_a_platform_that_does_not_say_it_has_none(platform: tuple[PlatformTarget, list[bytes]], said: bytes) -> None:
    target, body = platform
    body[:] = [said]
    assert platform_dtype(target) is None


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9000", "http://127.0.0.1:1", "http://[", "no address"])
def test_it_is_not_read_over_grpc_nor_where_nothing_answers(url: str) -> None:
    assert platform_dtype(PlatformTarget(url, "safety")) is None


@pytest.mark.parametrize(
    ("served", "peft", "coarser", "text"),
    [
        ("float32", "float32", "float32", "; in float32"),
        ("bfloat16", "float32", "bfloat16", "; in bfloat16, PEFT in float32: answers may differ by rounding"),
        ("float32", "bfloat16", "bfloat16", "; in float32, PEFT in bfloat16: answers may differ by rounding"),
        (None, "float32", "float32", "; it does not say its dtype"),
    ],
)
def test_the_coarser_of_both_decides_and_the_report_says_which_they_are(
    served: Any, peft: Any, coarser: str, text: str
) -> None:
    target = PlatformTarget("http://127.0.0.1:1", "safety", dtype=served)
    prepared: Any = SimpleNamespace(dtype=peft)
    folder: Any = None
    assert EvaluationRequest(prepared, folder, platform=target).coarser_dtype == coarser
    assert platform_text(target, peft).endswith(text)
