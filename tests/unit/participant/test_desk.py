"""What a site lets through: tasks are judged by their content, against the site's own settings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.sites import MECHANISM, Ground, announce, content

from aegis.errors import AegisError
from aegis_participant.answers import Answer, Answers
from aegis_participant.desk import Desk
from aegis_participant.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
    content_bytes,
)
from aegis_participant.incoming import Incoming, task_of
from aegis_participant.ledger import Ledger, Limit
from aegis_participant.rows import Counts
from aegis_participant.tasks import Task
from aegis_participant.workers import Workers


class Site:
    """A desk with everything real, and no process."""

    def __init__(self, ground: Ground, **how: Any) -> None:
        self.ground = ground
        settings = ground.settings(**how)
        data = settings.data["ward"]
        self.ledger = Ledger(
            ground.folder / "ledger",
            {"ward": Limit(data.epsilon_limit, data.delta)},
            clock=lambda: datetime.now(UTC),
        )
        self.answers = Answers(ground.folder / "answers")
        self.workers = Workers(ground.folder, at_once=1)
        self.desk = Desk(
            settings,
            ledger=self.ledger,
            answers=self.answers,
            workers=self.workers,
            counts=Counts(),
        )

    def task(self, asks: RecordDict, mechanism: Any = MECHANISM, **fields: Any) -> Task:
        data = content_bytes(asks)
        return task_of(announce(data, self.ground, mechanism=mechanism, **fields), data, 1e12)

    async def refused(self, task: Task) -> str:
        with pytest.raises(AegisError) as refusal:
            await self.desk.clear(task)
        assert self.ledger.epsilon("ward") == 0
        return refusal.value.reason

    def close(self) -> None:
        self.workers.close()
        self.ledger.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(Ground.make(tmp_path))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"app_sha256": bytes(32)}, "APP_MISMATCH"),
        ({"app": "nobody's"}, "APP_MISMATCH"),
        ({"dataset": "census"}, "RESOURCE_NOT_FOUND"),
        ({"schema_sha256": bytes(32)}, "FIELD_INVALID"),
        ({"content_sha256": bytes(32)}, "DIGEST_MISMATCH"),
        ({"simulation": True}, "TASK_NOT_PRIVATE"),
        ({"mechanism": None}, "TASK_NOT_PRIVATE"),
        ({"mechanism": replace(MECHANISM, noise_multiplier=4.0)}, "TASK_NOT_PRIVATE"),
        ({"mechanism": replace(MECHANISM, sample_rate=0.05)}, "TASK_NOT_PRIVATE"),
        ({"mechanism": replace(MECHANISM, steps=3)}, "TASK_NOT_PRIVATE"),
        ({"mechanism": replace(MECHANISM, clip_norm=0.5)}, "TASK_NOT_PRIVATE"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
async def test_header_that_does_not_fit_is_refused(
    site: Site, fields: dict[str, Any], reason: str
) -> None:
    """Other code, other rows, other bytes, or another promise than the content keeps."""
    assert reason == await site.refused(site.task(content(), **fields))


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": 1e-9},  # its accountant's table would fill the memory
        {"noise_multiplier": 1e9},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"steps": 0},
        {"steps": -4},
        {"steps": 10**9},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"clip_norm": 1e-44},  # rounds up to more, and a learning rate of 1e38 shows it
        {"clip_norm": 1e30},
        {"delta": 1 / 40},  # of forty rows
    ],
    ids=str,
)
async def test_mechanism_that_protects_nobody_is_refused(
    site: Site, change: dict[str, Any]
) -> None:
    """Also where header and content agree on it."""
    mechanism = replace(MECHANISM, **change)
    assert await site.refused(site.task(content(mechanism), mechanism)) == "TASK_NOT_PRIVATE"


@pytest.mark.parametrize(
    "config",
    [
        {"noise-multiplier": float("nan")},
        {"noise-multiplier": "2"},
        {"noise-multiplier": [2.0]},
        {"sample-rate": True},
        {"steps": 4.0},
        {"steps": True},
        {"simulation": True},
        {"simulation": 1},
    ],
    ids=str,
)
async def test_configuration_of_another_kind_is_refused(site: Site, config: dict[str, Any]) -> None:
    """What the application would read is what is judged."""
    assert await site.refused(site.task(content(**config))) == "TASK_NOT_PRIVATE"


async def test_second_configuration_is_refused(site: Site) -> None:
    """An application might read either."""
    asks = content()
    asks["other"] = ConfigRecord({"noise-multiplier": 0.1})
    assert await site.refused(site.task(asks)) == "TASK_NOT_PRIVATE"


async def test_numbers_in_another_record_are_refused(site: Site) -> None:
    """A record of metrics may be called "config", too."""
    asks = content()
    asks["judged"] = asks["config"]
    asks["config"] = MetricRecord({"noise-multiplier": 0.001, "steps": 1000})
    assert await site.refused(site.task(asks)) == "TASK_NOT_PRIVATE"


def _objects() -> Array:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    data = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"\x80\x04."
    return Array("object", (1,), "numpy.ndarray", data)


@pytest.mark.parametrize(
    "array",
    [
        Array("float32", (1,), "pickle", b"\x80\x04."),
        Array("float32", (1,), "torch.tensor", b"PK"),
        Array("float32", (1,), "numpy.ndarray", b"\x80\x04."),
        _objects(),
    ],
    ids=["pickle", "torch", "pickle in disguise", "objects"],
)
async def test_array_that_is_not_numbers_is_refused(site: Site, array: Array) -> None:
    """Nothing that could run is given to an application."""
    asks = content()
    asks["arrays"] = ArrayRecord({"w": array})
    assert await site.refused(site.task(asks)) == "FIELD_INVALID"


async def test_bytes_that_are_no_content_are_refused(site: Site) -> None:
    """Whatever the parser raises."""
    task = task_of(announce(b"\xff" * 99, site.ground), b"\xff" * 99, 1e12)
    assert await site.refused(task) == "FIELD_INVALID"


async def test_code_that_changed_since_the_start_is_refused(site: Site) -> None:
    """The pin is of what the operator read."""
    (site.ground.folder / "code" / "more.py").write_text("evil = True\n")
    assert await site.refused(site.task(content())) == "APP_MISMATCH"


async def test_same_task_is_reserved_once(site: Site) -> None:
    """Until it is settled its answer has not left, so working on it again costs nothing more."""
    task = site.task(content())
    await site.desk.clear(task)
    spent = site.ledger.epsilon("ward")
    await site.desk.clear(task)
    assert 0 < spent == site.ledger.epsilon("ward")
    site.ledger.settle(task.task_id, 4)
    with pytest.raises(AegisError) as refusal:
        await site.desk.clear(task)
    assert refusal.value.reason == "TASK_CLOSED"


async def test_kept_answer_is_for_the_same_content(site: Site) -> None:
    """A name alone proves nothing."""
    task = site.task(content())
    assert site.desk.kept(task) is None
    answer = Answer(task.task_id, task.content_sha256, b"update", 4, 0.5)
    site.answers.keep(answer)
    assert answer == site.desk.kept(task)
    with pytest.raises(AegisError) as refusal:
        site.desk.kept(replace(task, content_sha256=bytes(32)))
    assert refusal.value.reason == "TASK_CLOSED"


async def test_public_rows_are_let_through_without_a_promise(tmp_path: Path) -> None:
    """Simulations, too; a promise that is made is accounted all the same."""
    site = Site(Ground.make(tmp_path), data="public = true")
    await site.desk.clear(site.task(content(None), None))
    await site.desk.clear(site.task(content(simulation=True), simulation=True))
    assert site.ledger.epsilon("ward") == 0
    await site.desk.clear(site.task(content()))
    assert site.ledger.epsilon("ward") > 0
    site.close()


async def test_ledger_that_cannot_be_written_refuses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: nothing is trained that is not written down."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert await site.refused(site.task(content())) == "STORAGE_FULL"


async def test_answer_from_before_a_crash_closes_its_reservation(site: Site) -> None:
    """Others take its place in time, and then the task would be begun again for nothing."""
    task = site.task(content())
    await site.desk.clear(task)
    site.answers.keep(Answer(task.task_id, task.content_sha256, b"update", 3, 0.5))
    site.answers.keep(Answer("of-public-rows", task.content_sha256, b"update", 0, 0.5))
    site.desk.settle_answers()
    with pytest.raises(AegisError) as refusal:
        await site.desk.clear(task)
    assert refusal.value.reason == "TASK_CLOSED"


async def test_failed_task_is_spent_and_closed(site: Site) -> None:
    """Its failing was an answer, and another try is another task."""
    task = site.task(content(do="raise"))
    worked = await site.desk.work(
        await site.desk.clear(replace(task, deadline=time.monotonic() + 60))
    )
    assert worked.answer.error == "RuntimeError"
    spent = site.ledger.epsilon("ward")
    with pytest.raises(AegisError) as refusal:
        await site.desk.clear(task)
    assert (refusal.value.reason, spent) == ("TASK_CLOSED", site.ledger.epsilon("ward"))


async def test_names_that_would_fill_the_ledger_are_refused(site: Site) -> None:
    """What is written there stays for ever."""
    data = content_bytes(content())
    for name in ("task_id", "run_id"):
        with pytest.raises(AegisError):
            Incoming().announce(announce(data, site.ground, **{name: "x" * 65}))
