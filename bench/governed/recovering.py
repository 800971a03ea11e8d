"""Figure 3: how long an execution that kill -9 interrupted stays without an end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from governed.farm import Administrator, Farm, Target, scale
from governed.figures import Report
from governed.house import Asker, House

from aegis.channel import connect
from aegis.v1 import execution_pb2, execution_pb2_grpc

# Named, it is for the dry run too, which comes first.
_SLOW = {"where": "before", "seconds": 20, "verb": "patch", "resource": "deployments/scale"}
_UNHEARD = {"where": "after", "seconds": 20}
_ENDED = "select state from aegis_executor.ending where request_id = %s"
_CLAIMED = "select 'INTENT' from aegis_executor.intent where request_id = %s"
Reached = Callable[[], Awaitable[bool]]


class Recovery:
    """Kills the executor in the middle of one action, and starts it again at once."""

    def __init__(
        self, house: House, administrator: Administrator, journal: psycopg.AsyncConnection[Any]
    ) -> None:
        self._house = house
        self._administrator = administrator
        self._journal = journal
        self._asker = Asker(house.home)

    async def before_the_write(self, target: Target) -> tuple[float, float, str]:
        """The intent stands and the dry run is not answered."""
        request_id = str(uuid.uuid4())

        async def claimed() -> bool:
            return await self._state(_CLAIMED, request_id) is not None

        return await self._interrupted(target, request_id, claimed, _SLOW)

    async def after_the_write(self, target: Target) -> tuple[float, float, str]:
        """The cluster was changed and the answer is not there yet."""

        async def changed() -> bool:
            return await self._administrator.replicas(target.name) == target.wanted

        return await self._interrupted(target, str(uuid.uuid4()), changed, _UNHEARD)

    async def _interrupted(
        self, target: Target, request_id: str, reached: Reached, fault: dict[str, Any]
    ) -> tuple[float, float, str]:
        """Returns seconds since the kill, seconds since the start, and the end that was found."""
        await self._administrator.faults(fault)
        submitted = asyncio.create_task(self._submit(target, request_id))
        try:
            async with asyncio.timeout(20):
                while not await reached():
                    await asyncio.sleep(0.01)
            killed = time.perf_counter()
            self._house.kill("executor")
            await self._administrator.faults()
            started = time.perf_counter()
            restarting = asyncio.create_task(self._house.restart("executor"))
            async with asyncio.timeout(90):
                while (state := await self._state(_ENDED, request_id)) is None:
                    await asyncio.sleep(0.01)
            ended = time.perf_counter()
            await restarting
            return ended - killed, ended - started, state
        finally:
            await asyncio.gather(submitted, return_exceptions=True)

    async def _submit(self, target: Target, request_id: str) -> None:
        identity = self._house.identity("autopilot")
        async with connect(self._house.address, identity, retries=False) as channel:
            stub = execution_pb2_grpc.ExecutionServiceStub(channel)
            envelope = self._asker.request(scale(target.name, target.wanted), request_id=request_id)
            request = execution_pb2.SubmitActionRequest(envelope=envelope)
            await stub.SubmitAction(request, timeout=60)

    async def _state(self, query: str, request_id: str) -> str | None:
        row = await (await self._journal.execute(query, (request_id,))).fetchone()
        return str(row[0]) if row else None


async def recover(
    report: Report, house: House, administrator: Administrator, farm: Farm, *, times: int
) -> None:
    connecting = psycopg.AsyncConnection.connect(house.owner_url, autocommit=True)
    async with await connecting as journal:
        recovery = Recovery(house, administrator, journal)
        for when, expected in (("before", "FAILED"), ("after", "APPLIED")):
            interrupted = getattr(recovery, f"{when}_the_write")
            since_kill, since_start = [], []
            for _ in range(times):
                target = await farm.take()
                killed, started, state = await interrupted(target)
                farm.put_back(target, changed=state == "APPLIED")
                if state != expected:
                    raise SystemExit(f"killed {when} the write, it ended {state}")
                since_kill.append(killed)
                since_start.append(started)
            name = f"kill -9 {when} the write to its end ({expected})"
            report.latency(name, [since_kill], aim="aim: 10 s")
            report.latency(f"  {when} the write, since the process was started", [since_start])
