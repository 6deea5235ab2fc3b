"""A gateway with another key space than its fleet says so, and goes on."""

from __future__ import annotations

from structlog.testing import capture_logs

from aloraserve.blocks import KeySpace
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve_services.gateway.key_space import compare_key_spaces

FLEET = KeySpace("m", "t", 16)


class Gone(MemoryDirectory):
    """Out of reach."""

    async def join(self, space: KeySpace, *, ttl_s: float = 0.0) -> None:
        raise DirectoryUnavailableError("gone, as the test said")


async def test_a_difference_is_logged_with_both_values() -> None:
    directory = MemoryDirectory()
    await directory.join(FLEET)
    with capture_logs() as logs:
        assert await compare_key_spaces([Gone(), directory], FLEET)
        assert not logs
        assert not await compare_key_spaces([Gone(), directory], KeySpace("m", "other", 16))
    assert [entry["event"] for entry in logs] == ["key_space_mismatch"]
    assert "tokenizer is 'other' and the fleet's is 't'" in logs[0]["reason"]


async def test_a_gateway_that_is_there_first_settles_nothing() -> None:
    directory = MemoryDirectory()
    assert await compare_key_spaces([directory], KeySpace("m", "other", 16))
    await directory.join(FLEET)
