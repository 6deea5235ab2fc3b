"""What YAML would silently turn into something else is refused, and named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from aloraserve.errors import SettingsError
from aloraserve.settings import load_settings

Write = Callable[[str | bytes], Path]

KEY = "hunter2-hunter2-hunter2"


def refusal(write: Write, content: str | bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(content))
    assert "hunter2" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("served_name: no", ["served_name is 'no'", "a boolean", "quotes"]),
        ("served_name: 7", ["served_name is '7'", "an integer", "quotes"]),
        ("served_name: 2026-11-26", ["served_name is '2026-11-26'", "a date", "quotes"]),
        ("served_name: 1.5", ["served_name is '1.5'", "a number", "quotes"]),
        ("namespace: 007", ["namespace is 007", "quotes"]),
        ("port: 0o17", ["port is '0o17'"]),
        ("port: 010", ["port is 010", "decimal"]),
        ("port: 0x1F90", ["port is 0x1F90", "decimal"]),
        ("port: 8_080", ["port is 8_080", "decimal"]),
        ("start_timeout_s: 1:30", ["start_timeout_s is 1:30", "decimal"]),
        ("replicas: yes", ["replicas is 'yes'", "a number is needed"]),
        ("kv_cache_gib: on", ["kv_cache_gib is 'on'", "a number is needed"]),
        ("replicas: " + "9" * 5000, ["replicas is 999"]),
        ("api_keys: {team: 1234567890123456}", ["api_keys", "an integer", "quotes"]),
        ("api_keys: {team: 0123456701234567}", ["api_keys has a number", "quotes"]),
        (f"api_keys: {{7: {KEY}}}", ["api_keys", "an integer", "quotes"]),
        (f"api_keys: {{no: {KEY}}}", ["api_keys", "a boolean", "quotes"]),
        ("redis_url: 12", ["redis_url", "an integer", "quotes"]),
        ("pinned_adapters: [1, no]", ["pinned_adapters", "quotes"]),
    ],
)
def test_a_word_that_yaml_reads_otherwise_is_named_with_what_to_do(write: Write, text: str, parts: list[str]) -> None:
    message = refusal(write, text)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    "text",
    [
        "port: 1\nport: 2",
        f"api_keys: {{acme: {KEY}, acme: {KEY}x}}",
        f"api_keys:\n  acme: {KEY}\n  'acme': {KEY}x",
        "served_name: [{a: 1, a: 2}]",
    ],
)
def test_of_two_equal_keys_neither_is_taken(write: Write, text: str) -> None:
    assert "a key is there twice, again at line" in refusal(write, text)


def test_aliases_cannot_make_gigabytes_of_a_short_file(write: Write) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    tracemalloc.start()
    message = refusal(write, "\n".join([f"a0: &a0 [{KEY}]", *levels]))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert "an alias at line 2 is not accepted" in message


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_files_of_other_systems_are_read(write: Write, bom: bytes, end: bytes) -> None:
    content = bom + end.join([b"port: 1001", b'served_name: "caf\xc3\xa9"', b""])
    settings = load_settings(write(content))
    assert (settings.port, settings.served_name) == (1001, "café")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_another_encoding_is_named(write: Write, encoding: str) -> None:
    message = refusal(write, f"served_name: café\napi_keys: {{a: {KEY}}}".encode(encoding))
    assert "UTF-" in message or "not YAML" in message


def test_a_tab_that_indents_is_named(write: Write) -> None:
    assert "a tab cannot indent" in refusal(write, f"api_keys:\n\tacme: {KEY}")


def test_decimal_numbers_quoted_ones_and_exponents_are_read(write: Write) -> None:
    settings = load_settings(write("port: '8080'\nreplicas: 3\nkv_cache_gib: .5\nstart_timeout_s: 1.0e+2"))
    assert (settings.port, settings.replicas, settings.kv_cache_gib) == (8080, 3, 0.5)
    assert settings.start_timeout_s == 100
