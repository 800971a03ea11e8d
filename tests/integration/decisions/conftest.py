from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tests.replicas import Stand

RULES = """\
p, role:reader, *, /books/**, read, , allow, readers-read
p, role:banned, *, /**, *, , deny, banned-do-nothing
g2, user:rita, role:reader
"""


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """A running server with some rules."""
    started = Stand(tmp_path, RULES)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def channel(stand: Stand) -> AsyncIterator[grpc.aio.Channel]:
    """A way there."""
    async with stand.channel() as opened:
        yield opened
