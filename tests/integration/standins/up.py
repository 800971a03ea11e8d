"""Runs a stack in the home it is given, until a signal, as `aegis up` does."""

import asyncio
import sys
from pathlib import Path

from aegis.local.stack import Stack
from aegis.local.supervisor import cancelled_by_signals


async def main() -> None:
    """Prints each step, then UP."""

    def show(progress: object) -> None:
        print(progress, flush=True)

    with cancelled_by_signals():
        async with Stack(Path(sys.argv[1]), sandbox=True, on_progress=show) as stack:
            print("UP", flush=True)
            await stack.wait()


asyncio.run(main())
