"""A process that has a pool, writes down who works in it, and waits to be killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aegis_server.workers import Workers


def process_of(_: int) -> int:
    return os.getpid()


async def main() -> None:
    pool = Workers(1)
    pid = await pool.run(process_of, 0)
    file = Path(sys.argv[1])
    scratch = file.with_suffix(".new")
    scratch.write_text(str(pid))
    scratch.replace(file)
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main())
