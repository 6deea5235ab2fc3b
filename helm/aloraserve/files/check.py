"""`helm test`: whether the release answers over HTTP and gRPC, and asks for keys. Standard library and grpcio alone."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

URL = os.environ["ALORASERVE_TEST_URL"]
GRPC = os.environ.get("ALORASERVE_TEST_GRPC")
KEY = os.environ.get("ALORASERVE_TEST_KEY")
# The certificate is for the name that clients use, not for the Service's.
CONTEXT = ssl._create_unverified_context()  # noqa: S323
if CERTIFICATE := os.environ.get("ALORASERVE_TEST_CERTIFICATE"):
    CONTEXT.load_cert_chain(f"{CERTIFICATE}/tls.crt", f"{CERTIFICATE}/tls.key")


def ask(path, key=None, body=None):
    """Return status and text of an answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, content)  # noqa: S310
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60, context=CONTEXT) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def expect(what, found, wanted):
    """Say what was found; end with 1 if it is not what was wanted."""
    print(f"{what}: {found}", flush=True)
    if found != wanted:
        sys.exit(f"{what}: {wanted} was expected")


def check_grpc():
    """Ask the health service, which needs no key."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(GRPC) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    expect("gRPC health", health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status), "SERVING")


expect("GET /readyz", ask("/readyz")[0], 200)
expect("GET /v1/models without a key", ask("/v1/models")[0], 401)
if GRPC:
    check_grpc()
if KEY:
    status, text = ask("/v1/models", KEY)
    expect("GET /v1/models", status, 200)
    model = json.loads(text)["data"][0]["id"]
    call = {"model": model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 4}
    expect(f"POST /v1/chat/completions to {model}", ask("/v1/chat/completions", KEY, call)[0], 200)
