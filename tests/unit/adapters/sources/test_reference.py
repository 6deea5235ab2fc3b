"""Sources as they are written: what is taken apart, and what is refused before anything is opened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.adapters.sources import SourceReference, parse_reference
from aloraserve.errors import AdapterSourceError

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/models/safety", SourceReference("file", "", ("models", "safety"))),
        ("file:///models/safety", SourceReference("file", "", ("models", "safety"))),
        ("file://localhost/models/my%20adapter", SourceReference("file", "", ("models", "my adapter"))),
        ("s3://bucket/a/b/", SourceReference("s3", "bucket", ("a", "b"))),
        ("gs://bucket", SourceReference("gs", "bucket", ())),
        ("az://account/container/a", SourceReference("az", "account", ("container", "a"))),
        ("hf://ibm/granite-lib", SourceReference("hf", "ibm", ("granite-lib",))),
        (
            "hf://ibm/granite-lib/a/lora@refs/pr/1",
            SourceReference("hf", "ibm", ("granite-lib", "a", "lora"), "refs/pr/1"),
        ),
        ("oci://localhost:5000/team/safety:v1", SourceReference("oci", "localhost:5000", ("team", "safety"), "v1")),
        (f"oci://ghcr.io/team/safety@{DIGEST}", SourceReference("oci", "ghcr.io", ("team", "safety"), DIGEST)),
    ],
)
def test_each_kind_is_taken_apart(text: str, found: SourceReference) -> None:
    assert parse_reference(text) == found
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not 1 to 2048 printable"),
        ("/a\n/b", "printable"),
        ("/" + "a" * 3000, "not 1 to 2048"),
        ("models/safety", "not absolute"),
        ("ibm/granite-lib", "not absolute"),
        ("/models/../etc", r"'\.\.'"),
        ("file:///models/%2e%2e/etc", r"'\.\.'"),
        ("file://nfs.example/models", "host"),
        ("ftp://host/a", "'ftp'"),
        ("http://host/a", "'http'"),
        ("S3://bucket/a", "'S3'"),
        ("s3://", "no valid bucket"),
        ("s3://UPPER/a", "no valid bucket"),
        ("s3://bucket/a/../b", r"'\.\.'"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/a%2fb", "special character"),
        ("s3://bucket/a?versionId=1", "special character"),
        ("az://account", "account and container"),
        ("hf://ibm", "owner and repository"),
        ("hf://ibm/lib@", "revision"),
        ("hf://ibm/lib@a/../b", "revision"),
        ("hf://ibm/../lib", r"'\.\.'"),
        ("oci://ghcr.io/team/safety", "tag or digest"),
        ("oci://ghcr.io/team/safety:v1@" + DIGEST, "tag or digest"),
        ("oci://ghcr.io/team/safety@sha256:12", "tag or digest"),
        ("oci://ghcr.io/../safety:v1", "host and repository"),
    ],
)
def test_anything_else_is_refused(text: str, reason: str) -> None:
    with pytest.raises(AdapterSourceError, match=reason):
        parse_reference(text)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "hf", "oci"])
def test_a_password_in_a_url_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(AdapterSourceError, match="user or password") as caught:
        parse_reference(f"{scheme}://AKIAUSER:hunter2@host/a/b:v1")
    assert "hunter2" not in str(caught.value)
    assert "AKIAUSER" not in str(caught.value)


@given(
    st.text(max_size=60).map(lambda tail: tail), st.sampled_from(["", "/", "file://", "s3://b1b", "hf://", "oci://h"])
)
def test_whatever_is_accepted_leads_nowhere_else(tail: str, head: str) -> None:
    try:
        found = parse_reference(head + tail)
    except AdapterSourceError:
        return
    assert ".." not in found.path
    assert "" not in found.path
    assert not any(character in found.host for character in "@/\\?#%")
    assert parse_reference(str(found)) == found
