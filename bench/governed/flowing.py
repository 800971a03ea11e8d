"""A stream of actions through server, executor and sandbox; figure 4 counts it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from governed.farm import Farm, scale
from governed.figures import Report, Span
from governed.house import Asker, House

from aegis.channel import connect
from aegis.errors import from_rpc_error
from aegis.v1 import execution_pb2, execution_pb2_grpc

S = execution_pb2.Action
_DONE = frozenset({S.STATE_APPLIED, S.STATE_VERIFIED})
# What an action's time is made of, and the executor's steps that are it.
SHARES = {
    "verify": ("admit",),
    "Postgres": ("stored", "enter", "claim", "keep", "sending", "recheck", "end"),
    "read and dry run": ("plan",),
    "write": ("write",),
}


@dataclass(frozen=True, slots=True)
class Answered:
    """One action as its submitter saw it; `reason` is empty when the cluster was changed."""

    began: float
    ended: float
    reason: str


@dataclass(slots=True)
class Stream:
    """As many submitters as one likes, each with one action in flight, on different targets."""

    house: House
    farm: Farm
    answers: list[Answered] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def flowing(self, submitters: int) -> AsyncIterator[None]:
        asker = Asker(self.house.home)
        stopping = asyncio.Event()
        identity = self.house.identity("autopilot")
        async with connect(self.house.address, identity, retries=False) as channel:
            stub = execution_pb2_grpc.ExecutionServiceStub(channel)

            async def submitter() -> None:
                while not stopping.is_set():
                    await self._one(stub, asker)

            async with asyncio.TaskGroup() as group:
                for _ in range(submitters):
                    group.create_task(submitter())
                try:
                    yield
                finally:
                    stopping.set()

    async def _one(self, stub: execution_pb2_grpc.ExecutionServiceStub, asker: Asker) -> None:
        target = await self.farm.take()
        request = execution_pb2.SubmitActionRequest(
            envelope=asker.request(scale(target.name, target.wanted))
        )
        began = time.perf_counter()
        try:
            action = (await stub.SubmitAction(request, timeout=30)).action
            reason = "" if action.state in _DONE else action.reason or S.State.Name(action.state)
        except grpc.aio.AioRpcError as error:
            reason = from_rpc_error(error).reason
        self.answers.append(Answered(began, time.perf_counter(), reason))
        self.farm.put_back(target, changed=not reason)
        self._news.set()
        if reason:
            # Nothing is gained by asking at once again.
            await asyncio.sleep(0.01)

    async def until_answered(self, reason: str, since: float) -> Answered:
        """Waits for the first action that was answered so after `since`."""
        async with asyncio.timeout(30):
            while True:
                for answer in reversed(self.answers):
                    if answer.ended < since:
                        break
                    if answer.reason == reason:
                        found = [a for a in self.answers if a.ended >= since and a.reason == reason]
                        return min(found, key=lambda each: each.ended)
                self._news.clear()
                await self._news.wait()


Window = tuple[float, float]


async def flow(
    report: Report,
    cluster: str,
    stream: Stream,
    *,
    submitters: Sequence[int],
    seconds: float,
    rounds: int,
) -> None:
    windows: dict[int, list[Window]] = {each: [] for each in submitters}
    # Until the last of them is answered: half an action has no shares.
    whole: dict[int, list[Window]] = {each: [] for each in submitters}
    for _ in range(rounds):
        for number in submitters:
            first = time.perf_counter()
            async with stream.flowing(number):
                await asyncio.sleep(min(1.0, seconds / 2))
                began = time.perf_counter()
                await asyncio.sleep(seconds)
                windows[number].append((began, time.perf_counter()))
            whole[number].append((first, time.perf_counter()))
    spans = await stream.house.spans()
    for number, measured in windows.items():
        _tell(
            report,
            f"{number} submitters, {cluster}",
            [_inside(stream.answers, window) for window in measured],
            measured,
        )
        _shares(report, f"{number} submitters, {cluster}", stream.answers, spans, whole[number])


def _inside(answers: Sequence[Answered], window: Window) -> list[Answered]:
    return [each for each in answers if window[0] <= each.ended <= window[1]]


def _tell(
    report: Report,
    name: str,
    rounds: Sequence[Sequence[Answered]],
    windows: Sequence[Window],
) -> None:
    done = [[each for each in answers if not each.reason] for answers in rounds]
    rates = [
        len(answers) / (ended - began)
        for answers, (began, ended) in zip(done, windows, strict=True)
    ]
    refused = Counter(each.reason for answers in rounds for each in answers if each.reason)
    rate = statistics.median(rates)
    report.figures[f"actions/s, {name}"] = {"median": rate, "refused": dict(refused)}
    told = ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "none"
    report.say(f"{name:32s}  median {rate:6.1f} actions/s  not done: {told}")
    latencies = [[each.ended - each.began for each in answers] for answers in done]
    report.latency(f"  an action, {name}", latencies)


def _shares(
    report: Report,
    name: str,
    answers: Sequence[Answered],
    spans: Sequence[Span],
    windows: Sequence[Window],
) -> None:
    def mean(steps: Sequence[str]) -> float:
        """Milliseconds an action spends in these steps."""
        total = sum(e - b for name, b, e in spans if name in steps and _in(b, windows))
        return total * 1e3 / max(1, count)

    count = sum(1 for name, began, _ in spans if name == "all" and _in(began, windows))
    seen = [each.ended - each.began for each in answers if _in(each.began, windows)]
    whole = statistics.fmean(seen) * 1e3 if seen else float("nan")
    executor = mean(["all"])
    parts = {"server and both hops": whole - executor}
    parts |= {name: mean(steps) for name, steps in SHARES.items()}
    # Postgres is a part of it, and counted there.
    parts["baseline"] = mean(["capture"]) - mean(["keep"])
    parts["rest of the executor"] = whole - sum(parts.values())
    report.figures[f"shares, {name}"] = {**parts, "whole_ms": whole}
    told = "  ".join(f"{name} {ms:.1f} ms ({ms / whole:.0%})" for name, ms in parts.items())
    report.say(f"    of {whole:.1f} ms: {told}")


def _in(moment: float, windows: Sequence[Window]) -> bool:
    return any(began <= moment <= ended for began, ended in windows)
