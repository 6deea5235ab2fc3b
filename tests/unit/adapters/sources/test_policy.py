"""The operator's allow-list: an entry covers what is at it or below it, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.adapters.sources import SourcePolicy, parse_reference
from aloraserve.errors import AdapterSourceError


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("s3://bucket", "s3://bucket/a"),
        ("s3://bucket/team", "s3://bucket/team/safety"),
        ("s3://", "s3://any-bucket/a"),
        ("hf://ibm", "hf://ibm/lib/a@main"),
        ("hf://ibm/lib", "hf://ibm/lib"),
        ("oci://ghcr.io/team", "oci://ghcr.io/team/safety:v1"),
        ("az://account/container", "az://account/container/a"),
    ],
)
def test_what_is_below_an_entry_is_allowed(entry: str, source: str) -> None:
    SourcePolicy.of(["gs://other", entry]).check(parse_reference(source))


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ("s3://bucket/team", "s3://bucket/team-b/safety"),
        ("s3://bucket", "s3://bucket2/a"),
        ("s3://bucket", "gs://bucket/a"),
        ("hf://ibm", "hf://ibm-evil/lib"),
        ("oci://ghcr.io", "oci://ghcr.io:444/team/safety:v1"),
        ("https://huggingface.co", "hf://ibm/lib"),
        ("/models", "s3://models/a"),
    ],
)
def test_what_is_beside_an_entry_is_refused(entry: str, source: str) -> None:
    with pytest.raises(AdapterSourceError, match="adapter_sources"):
        SourcePolicy.of([entry], any_folder=True).check(parse_reference(source))


@pytest.mark.parametrize(
    "entry", ["", "models", "ftp://a", "s3://user@bucket", "/models/../etc", "http://host", "s3:/a"]
)
def test_an_entry_that_is_neither_folder_nor_url_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        SourcePolicy.of([entry])


def test_folders_are_allowed_below_their_roots_whatever_links_say(tmp_path: Path) -> None:
    for name in ("root/safety", "beside/safety"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root" / "out").symlink_to(tmp_path / "beside")
    (tmp_path / "in").symlink_to(tmp_path / "root")
    policy = SourcePolicy.of([str(tmp_path / "in")])
    assert policy.folder(parse_reference(f"{tmp_path}/root/safety")) == tmp_path / "root/safety"
    assert policy.folder(parse_reference(f"{tmp_path}/in/safety")) == tmp_path / "root/safety"
    for outside in ("beside/safety", "root/out/safety", "nowhere"):
        with pytest.raises(AdapterSourceError, match="outside of those allowed") as caught:
            policy.folder(parse_reference(f"{tmp_path}/{outside}"))
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(AdapterSourceError, match="not a folder"):
        policy.folder(parse_reference(f"{tmp_path}/root/missing"))


def test_a_name_that_no_folder_can_have_is_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterSourceError, match="not a folder"):
        SourcePolicy.of([str(tmp_path)]).folder(parse_reference(f"{tmp_path}/{'a' * 300}"))


def test_every_folder_can_be_allowed_and_none(tmp_path: Path) -> None:
    reference = parse_reference(str(tmp_path))
    assert SourcePolicy(any_folder=True).folder(reference) == tmp_path
    with pytest.raises(AdapterSourceError, match="outside"):
        SourcePolicy().folder(reference)


def test_hosts_are_listed_by_name_and_port() -> None:
    policy = SourcePolicy.of(["https://cdn.internal", "oci://10.0.0.5:5000/team", "s3://bucket"])
    assert policy.lists_host("cdn.internal", 443)
    assert policy.lists_host("10.0.0.5", 5000)
    assert not policy.lists_host("10.0.0.5", 22)
    assert not policy.lists_host("bucket", 443)
