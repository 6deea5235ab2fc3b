"""Readers of adapters on 10,000 damaged files: an answer each time, and none that safetensors contradicts."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, deserialize
from support.peft_adapters import BASE

from aloraserve.adapters import check_adapter
from aloraserve.adapters.checks.header import read_header
from aloraserve.adapters.checks.sidecar import read_sidecar
from aloraserve.adapters.checks.strict_json import parse_object

PIECES = [
    *(b"0", b"-1", b"1e999", b"NaN", b"18446744073709551616", b"1.0", b"null", b"true", b'""', b"[]", b"{}"),
    *(b'"r":9,', b'"dtype":"F64"', b'"shape":[0]', b'"data_offsets":[0,0]', b'"__metadata__":{}', b"\xff", b"\0"),
    *(b"\\ud800", b"\\u0000", b'"a":', b",", b":", b"]", b" ", b"[[", b"}}", b'"target_modules":".*",'),
]  # fmt: skip
SIDECAR = (
    b'{"untrained": false, "description": "x", "labels": {"a": "b"}, "example": [{"role": "user", "content": "x"}]}'
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to three things changed."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice([0, 0, 1, 2, 8, 40]))
        data = (
            data[:start]
            + chance.choice([*PIECES, b"", bytes([chance.randrange(256)]), data[start:end] * 2])
            + data[end:]
        )
    return data


def answered(read: Callable[[Any], Any], given: object) -> Any:
    """Return what a reader makes of it; None if it says in plain words why nothing."""
    try:
        return read(given)
    except ValueError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 1000
    return None


def test_json_is_read_or_refused_in_plain_words(write_adapter: Callable[..., Path]) -> None:
    chance = random.Random(1)
    config = (write_adapter(alora_invocation_tokens=[1, 2]) / "adapter_config.json").read_bytes()
    for _ in range(4000):
        answered(parse_object, damaged(config, chance))
    for _ in range(1000):
        answered(read_sidecar, damaged(SIDECAR, chance))


def test_a_header_that_is_accepted_is_one_that_safetensors_reads_alike(write_adapter: Callable[..., Path]) -> None:
    chance = random.Random(2)
    path = write_adapter() / "adapter_model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    accepted = 0
    for number in range(5000):
        header = damaged(whole[8 : 8 + length], chance)
        said = len(header) + (chance.choice([0, 0, 0, 0, 1, -1, 2**40]) if number % 4 == 0 else 0)
        data = struct.pack("<Q", said) + header + whole[8 + length :][: chance.choice([None, None, None, 40])]
        path.write_bytes(data)
        with path.open("rb") as file:
            entries = answered(read_header, file)
        if entries is None:
            continue
        accepted += 1
        try:
            found = {name: tuple(tensor["shape"]) for name, tensor in deserialize(data)}  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            pytest.fail(f"safetensors refuses {header!r}: {error}")
        assert found == {entry.name: entry.shape for entry in entries}
    assert accepted > 100


def test_a_damaged_adapter_is_accepted_or_refused_for_a_reason(
    write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    chance = random.Random(3)
    folder = write_adapter(alora_invocation_tokens=[1, 2])
    (folder / "aloraserve.json").write_bytes(SIDECAR)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    refused = 0
    for _ in range(500):
        victim = chance.choice(list(whole))
        victim.write_bytes(damaged(whole[victim], chance))
        report = check_adapter(folder, base=BASE, max_rank=8)
        victim.write_bytes(whole[victim])
        assert "cannot be checked" not in report.reason
        assert report.is_accepted or (report.reason.isprintable() and len(report.reason) < 3000)
        refused += not report.is_accepted
    assert 250 < refused < 500


def test_a_config_of_any_json_is_accepted_or_refused_for_a_reason(write_adapter: Callable[..., Path]) -> None:
    chance = random.Random(4)
    folder = write_adapter()
    config = json.loads((folder / "adapter_config.json").read_bytes())
    values = [None, True, 0, -1, 2**70, 0.5, "", "x" * 1000, "(a+)+$", [], [None], [[]], {}, {"a": {}}, [1] * 100]
    keys = [
        *config,
        "bias",
        "alora_invocation_tokens",
        "exclude_modules",
        "layers_pattern",
        "eva_config",
        "lora_dropout",
    ]
    for _ in range(500):
        changed = {**config, chance.choice(keys): chance.choice(values), chance.choice(keys): chance.choice(values)}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        assert "cannot be checked" not in check_adapter(folder, base=BASE, max_rank=8).reason
