"""Intrinsics on a request path without Ray."""

from __future__ import annotations

import pytest
from support.intrinsic_path import ANSWERS, Engine, RequestPath


@pytest.fixture
def engine() -> Engine:
    return Engine(dict(ANSWERS))


@pytest.fixture
async def path(engine: Engine) -> RequestPath:
    made = RequestPath(engine)
    await made.begin()
    return made
