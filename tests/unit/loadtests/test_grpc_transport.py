"""A load test's call over gRPC, in a process of its own: gevent changes gRPC for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import gevent.monkey; gevent.monkey.patch_all()
import grpc
from concurrent.futures import ThreadPoolExecutor
from loadtests.grpc_transport import GrpcTransport, cooperate
cooperate()
from aloraserve.v1.chat_pb2 import ChatRequest, ChatStreamResponse as Part
from aloraserve.wire.answer_stream import CallFailedError
import gevent

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_stream_rpc_method_handler(self.answer, ChatRequest.FromString, Part.SerializeToString)

    def answer(self, request, context):
        if request.model == "nobody":
            context.abort(grpc.StatusCode.NOT_FOUND, "not served")
        serving = {"replica": "engine-1", "prompt_tokens": 9, "cached_tokens": 8}
        yield Part(id="c", choices=[{"index": 0, "delta": {"role": "assistant"}}], serving=serving)
        gevent.sleep(0.05)
        yield Part(choices=[{"index": 0, "delta": {"content": "a"}}])
        gevent.sleep(0.05)
        yield Part(choices=[{"index": 0, "delta": {"content": "b"}}], usage={"completion_tokens": 2})

server = grpc.server(ThreadPoolExecutor(16), handlers=[Handler()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
transport = GrpcTransport(f"127.0.0.1:{port}", None)
calls = [gevent.spawn(transport.chat, "base", [{"role": "user", "content": "hi"}], 4) for _ in range(8)]
gevent.joinall(calls, timeout=20, raise_error=True)
answers = [call.value for call in calls]
for a in answers:
    found = (a.text, a.completion_tokens, a.prompt_tokens, a.cached_tokens, a.replica)
    assert found == ("ab", 2, 9, 8, "engine-1"), a
assert all(0.04 < a.ttft_s < a.e2e_s for a in answers), answers
try:
    transport.chat("nobody", [], 4)
except CallFailedError as error:
    assert "NOT_FOUND: not served" in str(error)
else:
    raise AssertionError
print("ok")
import os; os._exit(0)
"""


def test_calls_in_greenlets_are_read_and_timed() -> None:
    top = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=top, capture_output=True, text=True, timeout=60, check=False
    )
    assert "ok" in done.stdout, done.stderr[-2000:]
