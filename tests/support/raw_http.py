"""Requests as no client library writes them, each as bytes."""

from __future__ import annotations

import re

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
END = b"connection: close\r\n\r\n"
BODY = b'{"model":"nobody","messages":[{"role":"user","content":"hi"}]}'
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"


def _sized(*lines: bytes) -> bytes:
    return POST + b"".join(b"content-length: %s\r\n" % line for line in lines) + END + BODY


def _chunked(content: bytes, *fields: bytes) -> bytes:
    lines = fields or (b"transfer-encoding: chunked",)
    return POST + b"".join(b"%s\r\n" % line for line in lines) + END + content


_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

REFUSED = {
    "length and chunks": _chunked(b"0\r\n\r\n" + SMUGGLED, b"content-length: 5", b"transfer-encoding: chunked"),
    "chunks and length": _chunked(b"0\r\n\r\n" + SMUGGLED, b"transfer-encoding: chunked", b"content-length: 60"),
    "chunks that are not last": _chunked(_CHUNK, b"transfer-encoding: chunked, identity"),
    "an unknown coding": _chunked(_CHUNK, b"transfer-encoding: xchunked"),
    "a coding and a space": _chunked(_CHUNK, b"transfer-encoding : chunked"),
    "a folded coding": _chunked(_CHUNK, b"transfer-encoding:\r\n chunked"),
    "two lengths": _sized(b"5", b"62"),
    "lengths in a list": _sized(b"62, 62"),
    "a negative length": _sized(b"-1"),
    "a signed length": _sized(b"+62"),
    "a length in hex": _sized(b"0x3e"),
    "a length with an exponent": _sized(b"1e3"),
    "a length beyond 64 bits": _sized(b"99999999999999999999999"),
    "a length of no digits": _sized("٦٢".encode()),
    "a length of gigabytes": _sized(b"999999999999"),
    "a chunk beyond 64 bits": _chunked(b"fffffffffffffffff\r\n" + BODY),
    "a chunk of gigabytes": _chunked(b"ffffffffff\r\n" + BODY),
    "a negative chunk": _chunked(b"-1\r\n" + BODY),
    "a chunk in 0x": _chunked(b"0x3e\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a chunk without its end": _chunked(b"3e\r\n" + BODY + b"0\r\n\r\n"),
    "lines without returns": b"POST /v1/chat/completions HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n",
    "returns without lines": b"GET /healthz HTTP/1.1\rhost: localhost\r\r",
    "a folded header": GET + b"x-long: a\r\n b\r\n" + END,
    "NUL in a value": GET + b"x-nul: a\0b\r\n" + END,
    "NUL in a name": GET + b"x-\0nul: a\r\n" + END,
    "NUL in the target": b"GET /heal\0thz HTTP/1.1\r\nhost: localhost\r\n" + END,
    "a name that is empty": GET + b": a\r\n" + END,
    "a name with a space": GET + b"x y: a\r\n" + END,
    "a line without a colon": GET + b"nothing\r\n" + END,
    "two hosts": GET + b"host: evil.example\r\n" + END,
    "no host": b"GET /healthz HTTP/1.1\r\n" + END,
    "a host with a path": b"GET /healthz HTTP/1.1\r\nhost: localhost/evil\r\n" + END,
    "16 MB of one header": GET + b"x-long: " + b"a" * (16 << 20) + b"\r\n" + END,
    "10,000 headers": GET + b"".join(b"x-%d: a\r\n" % number for number in range(10_000)) + END,
    "a target of 64 KiB": b"GET /" + b"a" * (64 << 10) + b" HTTP/1.1\r\nhost: localhost\r\n" + END,
    "a method of 64 KiB": b"A" * (64 << 10) + b" / HTTP/1.1\r\nhost: localhost\r\n" + END,
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nhost: localhost\r\n" + END,
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n" + END,
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n" + END,
    "every resource": b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n" + END,
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512,
    "random bytes": bytes(range(256)) * 8,
}
"""What has to be refused: a 4xx, or the connection's end."""

TAKEN = {
    "an absolute target": b"GET http://localhost/healthz HTTP/1.1\r\nhost: localhost\r\n" + END,
    "an empty line before": b"\r\n" + GET + END,
    "HTTP/1.0 without a host": b"GET /healthz HTTP/1.0\r\n\r\n",
    "a name in capitals": b"GET /healthz HTTP/1.1\r\nHOST: localhost\r\n" + END,
    "chunks with extensions": _chunked(b"3e;a=b\r\n" + BODY + b"\r\n0;c\r\n\r\n"),
    "a length with zeros": _sized(b"0000000062"),
    "a body that GET does not need": GET + b"content-length: 5\r\n" + END + b"hello",
    "a client that waits to be asked": _sized(b"62").replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n", 1),
    "a target in percent": b"GET /%68ealthz HTTP/1.1\r\nhost: localhost\r\n" + END,
}
"""What may be answered like any other request, or refused."""


def statuses(reply: bytes) -> list[int]:
    """Return the status of each response in what came back."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", reply)]
