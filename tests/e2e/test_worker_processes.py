"""A server of several processes: one port, one page of metrics, one beginning and one end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aegis.channel import OPTIONS, Identity
from aegis.local import pki
from aegis.local.programs import server_environment
from aegis.v1 import identity_pb2, identity_pb2_grpc, policy_pb2, policy_pb2_grpc
from aegis_server.migrating import migrate
from tests.processes import Process, descendants, gone, until

WORKERS = 2


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class Served:
    """A server in `home`, its metrics and its workers."""

    def __init__(self, home: Path, database_url: str, redis_url: str | None) -> None:
        self.home = home
        self.metrics = free_address()
        environment = server_environment(
            home,
            database_url=database_url,
            redis_url=redis_url,
            executor_address="127.0.0.1:1",
            witness_address="127.0.0.1:1",
        )
        self.environment = {
            **{name: value for name, value in environment.items() if name.startswith("AEGIS_")},
            "AEGIS_LISTEN": "127.0.0.1:0",
            "AEGIS_TOKEN_LISTEN": "127.0.0.1:0",
            "AEGIS_METRICS_LISTEN": self.metrics,
            "AEGIS_WORKERS": str(WORKERS),
            # Tests ask more at once than anybody should.
            "AEGIS_LIMITS": "evaluate=100000/100000 read=100000/100000",
        }
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self, **more: str) -> None:
        self._process = Process(self.home, "aegis_server", **{**self.environment, **more})

    def figures(self, name: str, **labels: str) -> dict[str, float]:
        """Returns the values of a metric by what else it is labelled with."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=5) as page:
            text = page.read().decode()
        return {
            ",".join(v for k, v in sample.labels.items() if k not in labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def pids(self) -> list[int]:
        return [int(pid) for pid in self.figures("aegis_worker_process_id").values()]

    @asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
        """Opens channels that each have a connection of their own."""
        credentials = Identity.of("admin", self.home).credentials()
        options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    grpc.aio.secure_channel(self.process.address, credentials, options=options)
                )
                for _ in range(count)
            ]


@pytest.fixture
async def served(
    tmp_path: Path, database_url: str, server_database_url: str, redis_url: str
) -> AsyncIterator[Served]:
    """A server that is not started yet; whatever runs at the end of the test is ended."""
    await migrate(database_url)
    pki.ensure(tmp_path / "pki")
    (tmp_path / "blobs").mkdir()
    server = Served(tmp_path, server_database_url, redis_url)
    yield server
    if server._process is not None:
        left = [server.process.pid, *descendants(server.process.pid)]
        server.process.kill()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def who_am_i(channel: grpc.aio.Channel) -> str:
    stub = identity_pb2_grpc.IdentityServiceStub(channel)
    return (await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=20)).subject


async def evaluate(
    channel: grpc.aio.Channel, resource: str = "/x", *, subject: str = "user:a"
) -> None:
    request = policy_pb2.EvaluateRequest(subject=subject, resource=resource, action="read")
    await policy_pb2_grpc.PolicyServiceStub(channel).Evaluate(request, timeout=20)


async def test_workers_answer_on_one_port_and_are_counted_together(served: Served):
    """Fresh connections reach both; the page of metrics is the sum over them."""
    await asyncio.to_thread(served.start)
    async with served.connections(32) as channels:
        assert set(await asyncio.gather(*map(who_am_i, channels))) == {"user:admin"}
    calls = await asyncio.to_thread(served.figures, "aegis_worker_calls_total")
    assert sorted(calls) == ["0", "1"]
    assert min(calls.values()) >= 1
    assert sum(calls.values()) == 32
    handled = await asyncio.to_thread(
        served.figures, "grpc_server_handled_total", grpc_method="WhoAmI", grpc_code="OK"
    )
    assert list(handled.values()) == [32]
    assert len(set(served.pids())) == WORKERS
    assert set(served.pids()) <= set(descendants(served.process.pid))
    assert served.figures("aegis_policy_revision") == {"": 1}
    assert await asyncio.to_thread(served.process.stop) == 0


@pytest.mark.slow
async def test_worker_that_is_killed_is_replaced_while_others_answer(served: Served):
    """kill -9 under load: connections to the other one notice nothing, and no count is lost."""
    await asyncio.to_thread(served.start)
    answers, broken, codes = [0] * 16, set[int](), set[grpc.StatusCode]()
    over = asyncio.Event()

    async def ask(index: int, channel: grpc.aio.Channel) -> None:
        while not over.is_set():
            try:
                await evaluate(channel)
            except grpc.aio.AioRpcError as error:
                broken.add(index)
                codes.add(error.code())
                await asyncio.sleep(0.05)
            else:
                answers[index] += 1

    async with served.connections(16) as channels:
        asking = asyncio.gather(*(ask(index, each) for index, each in enumerate(channels)))
        while min(answers) < 20:
            await asyncio.sleep(0.02)
        before = await asyncio.to_thread(served.pids)
        counted = await handled(served)
        os.kill(before[0], signal.SIGKILL)
        whole = await whole_again(served, before)
        seen = list(answers)
        async with asyncio.timeout(20):
            while any(now <= then for now, then in zip(answers, seen, strict=True)):
                await asyncio.sleep(0.02)
        over.set()
        await asyncio.wait_for(asking, 30)
    assert 0 < len(broken) < 16
    assert codes == {grpc.StatusCode.UNAVAILABLE}
    assert before[0] not in whole
    assert before[1] in whole
    assert await asyncio.to_thread(served.figures, "aegis_worker_restarts_total") == {
        "0": 1,
        "1": 0,
    }
    assert counted < await handled(served) <= sum(answers) + len(broken) * 2
    assert await asyncio.to_thread(served.process.stop) == 0


async def handled(served: Served) -> float:
    figures = await asyncio.to_thread(
        served.figures, "grpc_server_handled_total", grpc_method="Evaluate", grpc_code="OK"
    )
    return sum(figures.values())


async def whole_again(served: Served, before: list[int]) -> list[int]:
    async with asyncio.timeout(40):
        while True:
            pids = await asyncio.to_thread(served.pids)
            ready = served.process.log.read_text().count("is ready, process")
            if len(pids) == WORKERS and pids != before and ready > WORKERS:
                return pids
            await asyncio.sleep(0.2)


async def test_sigterm_drains_every_worker(served: Served):
    """Calls in flight are answered by both, and no process is left."""
    await asyncio.to_thread(served.start)
    answers, refusals = [0] * 16, []

    async def ask(index: int, channel: grpc.aio.Channel) -> None:
        while True:
            try:
                await evaluate(channel)
            except grpc.aio.AioRpcError as error:
                refusals.append(error.details())
                return
            answers[index] += 1

    async with served.connections(16) as channels:
        asking = asyncio.gather(*(ask(index, each) for index, each in enumerate(channels)))
        while min(answers) < 10:
            await asyncio.sleep(0.02)
        processes = descendants(served.process.pid)
        status = await asyncio.to_thread(served.process.stop)
        await asking
    assert status == 0
    assert gone(processes)
    assert [text for text in refusals if "audit" in str(text)] == []
    assert served.process.log.read_text().count("INFO aegis.serving.program stopping") == 3


async def test_workers_end_when_their_parent_is_killed(served: Served):
    """kill -9 of the parent leaves nobody behind."""
    await asyncio.to_thread(served.start)
    processes = descendants(served.process.pid)
    assert len(processes) >= WORKERS
    served.process.kill()
    await asyncio.to_thread(until, lambda: gone(processes), served.process.log.read_text)
    assert "the parent is gone" in served.process.log.read_text()


def refused(environment: dict[str, str], **more: str) -> str:
    """Starts a server that must not come up, and returns its last words."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
    ended = subprocess.run(
        [sys.executable, "-m", "aegis_server"],
        env={**kept, **environment, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_second_server_on_the_port_is_refused(served: Served, workers: str):
    """Whether it has workers or not: a port is never shared by accident."""
    await asyncio.to_thread(served.start)
    told = await asyncio.to_thread(
        lambda: refused(
            served.environment,
            AEGIS_LISTEN=served.process.address,
            AEGIS_METRICS_LISTEN=free_address(),
            AEGIS_WORKERS=workers,
        )
    )
    assert served.process.address in told
    assert await asyncio.to_thread(served.process.stop) == 0


@pytest.mark.slow
async def test_worker_that_cannot_start_ends_the_server(served: Served):
    """With its reason, status 2, and nothing left."""
    missing = "postgresql://nobody@127.0.0.1:1/nothing"
    told = await asyncio.to_thread(lambda: refused(served.environment, AEGIS_DATABASE_URL=missing))
    assert "cannot start: the database cannot be reached" in told
    assert "before all were ready" in told


async def test_workers_find_each_others_answers_in_redis(served: Served):
    """What one has decided the other need not decide again."""
    await asyncio.to_thread(lambda: served.start(AEGIS_CACHE="redis"))

    async def found(resource: str) -> dict[str, float]:
        async with served.connections(12) as channels:
            for channel in channels:
                await evaluate(channel, resource, subject="automation:autopilot")
                await asyncio.sleep(0.02)  # answers are written behind the reply
        return await asyncio.to_thread(
            served.figures, "aegis_policy_decisions_total", effect="deny"
        )

    # On a busy machine Redis is not always waited for, so a few questions are asked.
    for number in range(1, 11):
        sources = await found(f"/documents/{number}")
        if sources["redis"]:
            break
    assert sources["redis"] >= 1
    assert sources["engine"] + sources["redis"] <= WORKERS * number
    assert sum(sources.values()) == 12 * number
    assert await asyncio.to_thread(served.process.stop) == 0
