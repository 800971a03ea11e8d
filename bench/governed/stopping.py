"""Figure 2: how soon nothing is begun any more, once somebody said stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from governed.figures import Report
from governed.flowing import Stream
from governed.house import House

from aegis.channel import connect
from aegis.v1 import execution_pb2, execution_pb2_grpc

# Long enough for everything that was on its way to have been answered.
_WATCH_SECONDS = 1.0
Stop = Callable[[], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _switch(house: House) -> AsyncIterator[Stop]:
    """Yields the kill switch of the control plane."""
    async with connect(house.address, house.identity("admin"), retries=False) as channel:
        stub = execution_pb2_grpc.ExecutionServiceStub(channel)

        @asynccontextmanager
        async def paused() -> AsyncIterator[None]:
            asked = execution_pb2.PauseExecutionRequest(reason="bench")
            pause = (await stub.PauseExecution(asked, timeout=10)).pause
            try:
                yield
            finally:
                ended = execution_pb2.ResumeExecutionRequest(
                    pause_id=pause.pause_id, reason="bench"
                )
                await stub.ResumeExecution(ended, timeout=10)

        yield paused


async def stop(report: Report, stream: Stream, *, times: int, submitters: int = 8) -> None:
    house = stream.house
    stopped: dict[str, list[tuple[float, float]]] = {"PauseExecution": [], "pause file": []}
    first: dict[str, list[float]] = {kind: [] for kind in stopped}
    async with _switch(house) as switch, stream.flowing(submitters):
        ways: dict[str, Stop] = {"PauseExecution": switch, "pause file": house.pausing_file}
        for _ in range(times):
            for kind, way in ways.items():
                await stream.until_answered("", time.perf_counter())
                async with way():
                    began = time.perf_counter()
                    refused = await stream.until_answered("EXECUTION_PAUSED", began)
                    first[kind].append(refused.ended - began)
                    await asyncio.sleep(_WATCH_SECONDS)
                    stopped[kind].append((began, time.perf_counter()))
    spans = await house.spans()
    writes = [began for name, began, _ in spans if name == "write"]
    for kind, windows in stopped.items():
        report.latency(f"{kind} to the first refusal", [first[kind]], aim="aim: 1 s")
        late = [
            max((each - began for each in writes if began <= each <= ended), default=0.0)
            for began, ended in windows
        ]
        report.latency(f"{kind} to the last write begun", [late])
