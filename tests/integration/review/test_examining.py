"""Examiners that hang, die and raise, at real processes: nothing is lost and nothing is silent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from tests.unit.review.factories import FAMILY, a_round

from aegis_learning import parameters
from aegis_server.review.case import Case, Ruling, Verdict
from aegis_server.review.desks import Desk, Desks, Examined, Stuck, Task
from aegis_server.review.isolation import Examining
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet

ROUND = a_round()
# Tells a test's examiners which update is the one that stops them.
MARK = 42.0


def marked(case: Case) -> bool:
    """Whether the round has an update that an examiner cannot bear."""
    return any(
        parameters.decode(each.data, FAMILY.shapes)["layer1.bias"][0] == MARK
        for each in case.submissions
    )


def quiet(name: str) -> None:
    """Tells nobody."""


def hanging_on_mark(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    if "careful" not in without:
        begin("careful")
        if marked(case):
            time.sleep(600)
    return vet(case, begin=begin, without=without)


def dying_on_mark(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    begin("fragile")
    if marked(case):
        os.kill(os.getpid(), signal.SIGSEGV)
    return vet(case, begin=begin, without=without)


def raising_on_mark(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    begin("clumsy")
    if marked(case):
        raise ZeroDivisionError("a threshold of 0.1234")
    return vet(case, begin=begin, without=without)


def hanging_always(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    if "sleepy" not in without:
        begin("sleepy")
        time.sleep(600)
    return vet(case, begin=begin, without=without)


def hopeless(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    begin("hopeless")
    time.sleep(600)
    raise AssertionError("nobody waits for so long")


def hanging_evidence(case: Case, ruling: Ruling, population: Population) -> Mapping[str, bytes]:
    time.sleep(600)
    return {}


def some_evidence(case: Case, ruling: Ruling, population: Population) -> Mapping[str, bytes]:
    return {each.update_id: b"numbers of %d" % len(population) for each in ruling.judgements}


def its_threads(case: Case, ruling: Ruling, population: Population) -> Mapping[str, bytes]:
    found = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
    return {"threads": ",".join(map(str, found)).encode()}


def told_back(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    digests = [hashlib.sha256(each.data).hexdigest() for each in case.submissions]
    return Ruling((), why=",".join(digests))


@pytest.fixture(scope="module")
def desks() -> Iterator[Desks]:
    started = Desks(2)
    yield started
    started.close()


def memory_mib(pid: int | None) -> int:
    """What a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def with_mark(case: Case, name: str) -> Case:
    """The same round, in which that update is the one examiners cannot bear."""
    update = {n: np.zeros(s, np.float32) for n, s in FAMILY.shapes.items()}
    update["layer1.bias"][0] = MARK
    return replace(
        case,
        submissions=tuple(
            replace(each, data=parameters.encode(update)) if each.update_id == name else each
            for each in case.submissions
        ),
    )


async def examined(desks: Desks, examining: Examining, case: Case) -> Examined:
    async with desks.one() as desk:
        return await examining.examine(desk, case)


@pytest.mark.parametrize(
    ("examiner", "words"),
    [
        (hanging_on_mark, "careful could not examine it: it came to no end"),
        (dying_on_mark, "fragile could not examine it: it ended its process"),
        (raising_on_mark, "clumsy could not examine it: it failed: ZeroDivisionError"),
    ],
    ids=["hangs", "dies", "raises"],
)
async def test_update_an_examiner_cannot_bear_is_held_alone(
    desks: Desks, examiner: Callable[..., Ruling], words: str
):
    """The others get the verdicts they would have got without it."""
    made = await examined(desks, Examining(examiner, 8.0), with_mark(ROUND, "s2"))
    judged = {each.update_id: each for each in made.ruling.judgements}
    assert list(judged) == ["s1", "s2", "s3", "s4", "s5"]
    assert judged["s2"].verdict is Verdict.HELD
    (finding,) = judged["s2"].findings
    assert finding.measure == "failure"
    assert words in finding.text
    others = tuple(each for each in ROUND.submissions if each.update_id != "s2")
    alone = vet(replace(ROUND, submissions=others))
    assert tuple(judged[each.update_id] for each in others) == alone.judgements


async def test_examiner_that_always_hangs_is_left_out_and_said_so(desks: Desks):
    """What it has not seen is held, with what the others found; the round comes to an end."""
    began = time.monotonic()
    made = await examined(desks, Examining(hanging_always, 4.0), ROUND)
    assert time.monotonic() - began < 25
    for judgement in made.ruling.judgements:
        assert judgement.verdict is Verdict.HELD
        assert judgement.findings[0].examiner == "sleepy"
        assert len({each.examiner for each in judgement.findings}) > 1


async def test_attacker_found_without_the_hanging_examiner_stays_rejected(desks: Desks):
    """An examiner that is away is no way to be held instead."""
    made = await examined(desks, Examining(hanging_always, 4.0), a_round(s3="sign-flip"))
    verdicts = {each.update_id: each.verdict for each in made.ruling.judgements}
    assert verdicts.pop("s3") is Verdict.REJECTED
    assert set(verdicts.values()) == {Verdict.HELD}


async def test_round_nobody_can_examine_is_held_as_a_whole(desks: Desks):
    """Never lost, never silent, and in bounded time."""
    began = time.monotonic()
    made = await examined(desks, Examining(hopeless, 2.5), ROUND)
    assert time.monotonic() - began < 20
    assert {each.verdict for each in made.ruling.judgements} == {Verdict.HELD}
    assert all("hopeless" in each.findings[0].text for each in made.ruling.judgements)


async def test_desk_that_is_killed_once_loses_nothing(desks: Desks):
    """Somebody kills the process in the middle; the round is examined by another."""
    async with desks.one() as desk:
        await desk.do(Task(ROUND, vet), seconds=60)
        task = Task(with_mark(ROUND, "s2"), hanging_on_mark)
        hanging = asyncio.create_task(desk.do(task, seconds=60))
        await asyncio.sleep(1.5)
        assert desk.pid is not None
        os.kill(desk.pid, signal.SIGKILL)
        with pytest.raises(Stuck) as stuck:
            await hanging
        assert stuck.value.died
        assert (await desk.do(Task(ROUND, vet), seconds=60)).ruling == vet(ROUND)


async def test_examination_whose_process_is_killed_is_tried_again(desks: Desks):
    """One death by chance costs a moment, no verdict."""
    async with desks.one() as desk:
        examining = asyncio.create_task(Examining(slow, 60.0).examine(desk, ROUND))
        while desk.pid is None:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        os.kill(desk.pid, signal.SIGKILL)
        made = await examining
    assert made.ruling == vet(ROUND)


def slow(
    case: Case, *, begin: Callable[[str], None] = quiet, without: frozenset[str] = frozenset()
) -> Ruling:
    begin("slow")
    time.sleep(1.0)
    return vet(case, begin=begin, without=without)


async def test_hanging_examination_does_not_make_others_wait(desks: Desks):
    """Each desk is a process of its own; only the hanging one is killed."""
    stuck = asyncio.create_task(examined(desks, Examining(hopeless, 4.0), ROUND))
    await asyncio.sleep(0)
    began = time.monotonic()
    for _ in range(3):
        await examined(desks, Examining(vet, 60.0), ROUND)
    assert not stuck.done()
    assert time.monotonic() - began < 12
    await stuck


async def test_ruling_stands_when_its_evidence_hangs(desks: Desks):
    """Evidence explains a verdict; it does not make it."""
    made = await examined(desks, Examining(vet, 5.0, hanging_evidence), ROUND)
    assert made == Examined(vet(ROUND), {})


async def test_evidence_is_made_where_the_round_is_examined(desks: Desks):
    """Of every update, with the population at hand."""
    made = await examined(desks, Examining(vet, 60.0, some_evidence), ROUND)
    assert made.numbers == dict.fromkeys(["s1", "s2", "s3", "s4", "s5"], b"numbers of 5")


async def test_desk_computes_in_one_thread(desks: Desks):
    """There are as many desks as should work at once."""
    made = await examined(desks, Examining(vet, 30.0, its_threads), ROUND)
    assert set(made.numbers["threads"].split(b",")) == {b"1"}


async def test_updates_reach_a_desk_as_they_are_and_do_not_stay_there(desks: Desks):
    """They travel one by one, an empty one too; a desk that waits holds none of them."""
    sent = [random.randbytes(60 << 20), b"", random.randbytes(5), bytes(60 << 20)]
    updates = tuple(replace(ROUND.submissions[0], data=data) for data in sent)
    async with desks.one() as desk:
        await desk.do(Task(ROUND, told_back), seconds=60.0)
        before = memory_mib(desk.pid)
        made = await desk.do(Task(replace(ROUND, submissions=updates), told_back), seconds=60.0)
        assert made.ruling.why == ",".join(hashlib.sha256(data).hexdigest() for data in sent)
        await asyncio.sleep(0.2)
        assert memory_mib(desk.pid) - before < 60


async def test_denormal_storm_is_examined_like_any_update(desks: Desks):
    """Numbers too small to be normal are numbers, and no slower for anybody to notice."""
    storm = {n: np.full(s, 1e-42, np.float32) for n, s in FAMILY.shapes.items()}
    case = replace(
        ROUND,
        submissions=(
            replace(ROUND.submissions[0], data=parameters.encode(storm)),
            *ROUND.submissions[1:],
        ),
    )
    began = time.monotonic()
    made = await examined(desks, Examining(vet, 30.0), case)
    assert time.monotonic() - began < 10
    assert not any(f.measure == "failure" for j in made.ruling.judgements for f in j.findings)


async def test_desks_end_with_their_owner():
    """No process is left behind."""
    started = Desks(1)
    async with started.one() as desk:
        await desk.do(Task(ROUND, vet), seconds=60)
        pid = desk.pid
        assert isinstance(desk, Desk)
    assert started.processes == [pid]
    started.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid or 0, 0)


async def test_process_that_does_not_take_its_task_is_killed(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
):
    """A task that is larger than a pipe waits for a reader, and that may be for ever."""
    async with desks.one() as desk:
        await desk.do(Task(ROUND, vet), seconds=60.0)
        assert desk.pid is not None
        os.kill(desk.pid, signal.SIGSTOP)
        monkeypatch.setattr("aegis_server.review.desks._START_SECONDS", 1.0)
        large = replace(ROUND, base=bytes(1_000_000))
        before = time.monotonic()
        doing = asyncio.create_task(desk.do(Task(large, vet), seconds=1.0))
        done, _ = await asyncio.wait([doing], timeout=20)
        if not done:
            desk.clear()
        with pytest.raises(Stuck):
            await doing
        assert time.monotonic() - before < 20
