"""What a Redis URL says, and what is refused without being repeated."""

from __future__ import annotations

import ssl
import string
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aloraserve.redis.credentials import CredentialsFile, Login
from aloraserve.redis.url import Deployment, Host, read_url, redacted_url


def test_a_servers_url_has_a_host_a_database_and_a_user() -> None:
    found = read_url("redis://me:p%2Fa%40s@host:7000/3")
    assert (found.deployment, found.hosts, found.database) == (Deployment.SINGLE, (Host("host", 7000),), 3)
    assert found.credentials.read() == Login("me", "p/a@s")
    assert found.tls is None
    assert read_url("redis://host").hosts == (Host("host", 6379),)


def test_a_password_alone_is_the_default_users() -> None:
    assert read_url("redis://:s@host").credentials.read() == Login("default", "s")
    assert read_url("redis://host").credentials.read() is None


def test_a_sockets_url_has_a_path() -> None:
    found = read_url("unix://me:mine@/run/my%20redis.sock?db=2")
    assert (found.hosts, found.database) == ((Host("/run/my redis.sock", 0),), 2)
    assert found.credentials.read() == Login("me", "mine")


def test_a_sentinels_url_carries_tls_and_both_users() -> None:
    found = read_url(
        "rediss+sentinel://me:mine@h1,h2:1/fleet/3?ssl_ca_certs=/ca&sentinel_username=s&sentinel_password=t"
    )
    assert found.deployment is Deployment.SENTINEL
    assert found.hosts == (Host("h1", 26379), Host("h2", 1))
    assert (found.service, found.database) == ("fleet", 3)
    assert found.credentials.read() == Login("me", "mine")
    assert found.sentinel_credentials.read() == Login("s", "t")
    assert found.tls is not None
    assert (found.tls.ca_certs, found.tls.checks, found.tls.check_hostname) == ("/ca", ssl.CERT_REQUIRED, True)


def test_a_clusters_url_may_have_slashes_in_its_options() -> None:
    found = read_url("rediss+cluster://h1,[::1]:1?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=none")
    assert found.hosts == (Host("h1", 6379), Host("::1", 1))
    assert found.tls is not None
    assert (found.tls.ca_certs, found.tls.checks, found.tls.check_hostname) == ("/etc/ca.pem", ssl.CERT_NONE, False)


def test_a_file_stands_in_place_of_user_and_password() -> None:
    found = read_url("redis+cluster://h1,h2?credentials_file=/run/secrets/redis")
    assert found.credentials == CredentialsFile(Path("/run/secrets/redis"))


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "unix+cluster://host",
        "redis:host",
        "redis+sentinel://host:1",
        "redis+sentinel:///fleet",
        "redis+sentinel://host/fleet/s3cret",
        "redis+cluster://host/3",
        "redis+cluster://",
        "redis+cluster://user:s3cret",
        "redis://host:s3cret",
        "redis://h1,h2",
        "redis://host/-1",
        "redis://host?s3cret",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="accepted are redis://") as caught:
        read_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("redis://host?s3cret=1", "accepted are db, credentials_file"),
        ("redis://user:s3cret@host?credentials_file=/file", "both a user and credentials_file"),
        ("rediss://host?ssl_cert_reqs=s3cret", "none, optional, required"),
        ("rediss://host?ssl_check_hostname=s3cret", "true, false"),
    ],
)
def test_an_option_that_is_wrong_is_refused_with_what_is_accepted(url: str, accepted: str) -> None:
    with pytest.raises(ValueError, match=accepted) as caught:
        read_url(url)
    assert "s3cret" not in str(caught.value)


def test_passwords_are_never_shown() -> None:
    assert redacted_url("redis://me:s3cret@host/0") == "redis://me:***@host/0"
    assert "s3cret" not in redacted_url("redis+sentinel://h/fleet?sentinel_password=s3cret")
    assert redacted_url("redis://h?credentials_file=/run/redis") == "redis://h?credentials_file=/run/redis"
    assert "s3cret" not in repr(read_url("redis://me:s3cret@host"))


@given(password=st.text(string.ascii_letters + string.digits + string.punctuation + " é", min_size=6, max_size=20))
@example(password="12/34abc")
@example(password="57#Wq903z")
@example(password="12?db=1")
@example(password="4?sec=x")
@example(password="a@b/c@d#e")
@pytest.mark.parametrize(
    ("form", "deployment"),
    [
        ("redis://:{}@127.0.0.1:6379/0", Deployment.SINGLE),
        ("redis://user:{}@host", Deployment.SINGLE),
        ("rediss://user:{}@[::1]:7/1", Deployment.SINGLE),
        ("redis+sentinel://user:{}@h1,h2:7/fleet/1", Deployment.SENTINEL),
        ("redis+sentinel://user:{}@h1/fleet", Deployment.SENTINEL),
        ("redis+cluster://user:{}@h1,h2:7", Deployment.CLUSTER),
        ("unix://user:{}@/run/redis.sock", Deployment.SINGLE),
    ],
)
def test_a_password_as_it_is_is_read_right_or_refused_and_never_shown(
    form: str, deployment: Deployment, password: str
) -> None:
    assume(unquote(password) == password)
    url = form.format(password)
    hosts = read_url(form.format("x")).hosts
    if any(mark in password for mark in "/?"):
        with pytest.raises(ValueError, match="percent-encoded") as caught:
            read_url(url)
        assert password not in str(caught.value)
    else:
        address = read_url(url)
        assert (address.credentials.read(), address.hosts) == (Login(_user(form), password), hosts)
        assert address.deployment is deployment
    shown = redacted_url(url)
    assert password not in shown
    assert not any(password[start : start + 4] in shown.replace("percent-encoded", "") for start in range(3))
    encoded = read_url(form.format(quote(password, safe="")))
    assert (encoded.credentials.read(), encoded.hosts) == (Login(_user(form), password), hosts)


def _user(form: str) -> str:
    return "user" if "user" in form else "default"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://[::1]", Host("::1", 6379)),
        ("redis://[fd00::17]:7/0", Host("fd00::17", 7)),
        ("redis+cluster://[::1]:7,[::2]", Host("::1", 7)),
    ],
)
def test_an_ipv6_address_stands_in_brackets(url: str, host: Host) -> None:
    assert read_url(url).hosts[0] == host
    assert str(host) == f"[{host.name}]:{host.port}"


@pytest.mark.parametrize(
    "url", ["redis://::1:6379", "redis://:6379", "redis://h#x:1", "redis://h x", "redis://h:99999"]
)
def test_a_host_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        read_url(url)


def test_who_has_a_password_alone_is_not_named() -> None:
    assert redacted_url("redis://hunter2@host") == "redis://***@host"
