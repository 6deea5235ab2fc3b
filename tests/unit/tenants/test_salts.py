"""Cache salts: no two pairs of a tenant and a client's own salt have the same."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.tenants.salts import cache_salt_of

# Texts that look like parts of a salt are the ones that could collide.
parts = (
    st.none()
    | st.text(max_size=8)
    | st.lists(st.sampled_from(["tenant:", "client:", "1:", "4:", "a", ":"])).map("".join)
)
pairs = st.tuples(parts, parts)


@given(pairs, pairs)
@example(("a", "b"), ("ab", None))
@example((None, "tenant:1:a"), ("a", None))
@example(("aclient:1:b", None), ("a", "b"))
@example(("", None), (None, ""))
def test_two_pairs_of_tenant_and_client_s_salt_have_two_salts(
    one: tuple[str | None, str | None], other: tuple[str | None, str | None]
) -> None:
    assert (cache_salt_of(*one) == cache_salt_of(*other)) is (one == other)


def test_nobody_s_blocks_have_no_salt() -> None:
    assert cache_salt_of(None) is None
    assert cache_salt_of("", "") is not None


@given(parts)
def test_a_request_s_own_salt_is_folded_under_the_caller_s_tenant(client: str | None) -> None:
    acme = Caller("acme", cache_salt=cache_salt_of("acme"), key_id="k")
    assert acme.salted(client).cache_salt == cache_salt_of("acme", client)
    assert acme.salted(client).key_id == "k"
    assert UNTENANTED.salted(client).cache_salt == cache_salt_of(None, client)
