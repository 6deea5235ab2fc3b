"""A gateway's key space and its fleet's: with another tokenizer or release a gateway would never find a holding."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Directory
from aloraserve.errors import DirectoryUnavailableError, KeySpaceMismatchError

COMPARE_EVERY_S = 60.0

log = structlog.get_logger(__name__)


async def compare_key_spaces(directories: Sequence[Directory], keyspace: KeySpace) -> bool:
    """Return whether all of them that answer have this key space or none; log each that has another.

    Calls are answered all the same: the directory is advisory.
    """
    are_equal = True
    for directory in directories:
        try:
            await directory.join(keyspace, ttl_s=0)
        except KeySpaceMismatchError as error:
            are_equal = False
            log.error("key_space_mismatch", reason=error.message)
        except DirectoryUnavailableError:
            continue
    return are_equal


async def follow_key_spaces(directories: Sequence[Directory], keyspace: KeySpace) -> None:
    """Compare now, and again every minute, until cancelled: another fleet may have taken the namespace."""
    while True:
        await compare_key_spaces(directories, keyspace)
        await asyncio.sleep(COMPARE_EVERY_S)
