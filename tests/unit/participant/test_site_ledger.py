"""The site's own ledger: never overdrawn, whatever is asked and wherever it dies."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.errors import FailedPrecondition
from aegis_learning import privacy
from aegis_participant.ledger import Cost, Ledger, LedgerError, Limit

COST = Cost(2.0, 0.1, 10)
LIMIT = Limit(1.5, 1e-5)


def opened(folder: Path, limit: Limit = LIMIT) -> Ledger:
    return Ledger(folder / "ledger", {"ward": limit, "icu": limit}, clock=lambda: NOW)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def reserve(ledger: Ledger, task_id: str, cost: Cost = COST, dataset: str = "ward") -> None:
    ledger.reserve(task_id, dataset, cost, run_id="run-1", number=1)


def test_cost_is_of_all_runs_together(tmp_path: Path) -> None:
    """Composed in Rényi divergence, which is less than the sum of epsilons."""
    with opened(tmp_path, Limit(9, 1e-5)) as ledger:
        reserve(ledger, "a")
        reserve(ledger, "b", Cost(1.5, 0.2, 3))
        reserve(ledger, "elsewhere", dataset="icu")
        expected = privacy.epsilon_of(privacy.rdp(2, 0.1, 10) + privacy.rdp(1.5, 0.2, 3), 1e-5)
        assert expected == pytest.approx(ledger.epsilon("ward"), abs=1e-12)
        assert privacy.epsilon(2, 0.1, 10, 1e-5) == pytest.approx(ledger.epsilon("icu"), abs=1e-12)
        assert ledger.epsilon("ward", 1e-3) < ledger.epsilon("ward")


def test_settling_gives_back_what_was_not_taken(tmp_path: Path) -> None:
    """Never more than was reserved, and once; another program reads the same."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
        whole = ledger.epsilon("ward")
        ledger.settle("a", 4)
        ledger.settle("a", 0)
        part = ledger.epsilon("ward")
        reserve(ledger, "b")
        ledger.settle("b", 10**6)
    assert privacy.epsilon(2, 0.1, 4, 1e-5) == pytest.approx(part)
    assert part < whole
    with opened(tmp_path) as again:
        assert privacy.epsilon(2, 0.1, 14, 1e-5) == pytest.approx(again.epsilon("ward"))


def test_limit_is_refused_with_its_reason(tmp_path: Path) -> None:
    """And the refusal is not in the file."""
    with opened(tmp_path) as ledger:
        with pytest.raises(FailedPrecondition) as refusal:
            reserve(ledger, "a", Cost(1.0, 0.5, 100))
        assert refusal.value.reason == "PRIVACY_BUDGET_EXHAUSTED"
        assert refusal.value.metadata == {"dataset": "ward", "limit": "1.5"}
        assert ledger.epsilon("ward") == 0
    assert (tmp_path / "ledger").read_bytes() == b""


def test_one_program_at_a_time(tmp_path: Path) -> None:
    """The second is told; after the first has ended it may."""
    with opened(tmp_path), pytest.raises(LedgerError, match="in use"):
        opened(tmp_path)
    opened(tmp_path).close()


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_last_line_that_was_torn_was_never_acted_upon(tmp_path: Path, cut: int) -> None:
    """It is cut off, and the file goes on behind the whole lines."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
        spent = ledger.epsilon("ward")
        reserve(ledger, "b")
    file = tmp_path / "ledger"
    file.write_bytes(file.read_bytes()[:-cut])
    with opened(tmp_path) as ledger:
        assert spent == ledger.epsilon("ward")
        reserve(ledger, "c")
    with opened(tmp_path) as ledger:
        assert spent < ledger.epsilon("ward")


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"not json",
        b'{"settle":"nobody","steps":1}',
        b'{"reserve":"x","dataset":"ward","noise":0,"rate":0.1,"steps":1}',
        b'{"reserve":"x","dataset":"ward","noise":NaN,"rate":0.1,"steps":1}',
        b'{"reserve":"a","dataset":"ward","noise":2,"rate":0.1,"steps":1}',
        b"[]",
    ],
    ids=["empty", "garbage", "unknown", "no noise", "nan", "twice", "list"],
)
def test_line_that_cannot_be_read_stops_the_program(tmp_path: Path, line: bytes) -> None:
    """What was spent is then not known, so nothing more may be."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
    file = tmp_path / "ledger"
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(LedgerError, match="line 2"):
        opened(tmp_path)


def test_write_that_failed_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: not reserved, and the next line does not run into the torn one."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
        spent = ledger.epsilon("ward")
        real = os.pwrite

        def full(descriptor: int, data: bytes, offset: int) -> int:
            real(descriptor, data[:7], offset)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                reserve(ledger, "b")
        assert spent == ledger.epsilon("ward")
        reserve(ledger, "c")
    with opened(tmp_path) as ledger:
        assert ledger.epsilon("ward") > spent


def test_rows_keep_their_account_under_another_name(tmp_path: Path) -> None:
    """Another schema for the same file is no new budget, nor is the file's next place."""
    rows = {"ward": Limit(1.5, 1e-5, "/srv/rows.csv"), "icu": Limit(1.5, 1e-5, "/srv/icu.csv")}
    with Ledger(tmp_path / "ledger", rows, clock=lambda: NOW) as ledger:
        reserve(ledger, "a")
        spent = ledger.epsilon("ward")
        reserve(ledger, "elsewhere", dataset="icu")
    renamed = {"ward-2": rows["ward"], "ward": Limit(1.5, 1e-5, "/srv/moved.csv")}
    with Ledger(tmp_path / "ledger", renamed, clock=lambda: NOW) as ledger:
        assert spent == ledger.epsilon("ward-2") == ledger.epsilon("ward")
        reserve(ledger, "b", dataset="ward-2")
        assert spent < ledger.epsilon("ward-2") == ledger.epsilon("ward")


def test_answered_task_is_closed_even_where_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk between an answer and its settlement gives no second answer for nothing."""
    with opened(tmp_path) as ledger:
        reserve(ledger, "a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", dying(0))
            with pytest.raises(Crash):
                ledger.settle("a", 10)
        with pytest.raises(FailedPrecondition) as refusal:
            reserve(ledger, "a")
        assert refusal.value.reason == "TASK_CLOSED"
        ledger.settle("nobody's", 1)


class Crash(Exception):
    """The machine dies here."""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "again"]),
        st.sampled_from([Cost(2.0, 0.1, 10), Cost(1.0, 0.3, 2), Cost(4.0, 0.5, 30)]),
        st.integers(0, 40),
        # How many bytes of this write reach the disk before the machine dies, if it does.
        st.none() | st.integers(0, 200),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_never_overdrawn_wherever_it_dies(steps: list[tuple[str, Cost, int, int | None]]) -> None:
    """What was trained, by a count kept apart, is never more than the limit nor than the ledger."""
    trained: dict[str, Cost] = {}
    with TemporaryDirectory() as folder:
        ledger = opened(Path(folder))
        for number, (kind, cost, taken, survives) in enumerate(steps):
            task = f"task-{number}" if kind == "reserve" else next(iter(trained), "task-0")
            patch = pytest.MonkeyPatch()
            if survives is not None:
                patch.setattr(os, "pwrite", dying(survives))
            try:
                if kind == "settle" and task in trained:
                    ledger.settle(task, min(taken, trained[task].steps))
                elif kind != "settle":
                    reserve(ledger, task, cost)
                    trained[task] = cost
            except FailedPrecondition:
                pass
            except Crash:
                ledger.close()
                patch.undo()
                ledger = opened(Path(folder))
            finally:
                patch.undo()
            if kind == "settle" and task in trained and ledger._entries[task].settled:
                known = ledger._entries[task].cost
                took = min(taken, known.steps)
                # Settled once: a later settlement changes nothing.
                trained.setdefault(f"{task} settled", Cost(known.noise_multiplier, 1.0, took))
            assert ledger.epsilon("ward") <= LIMIT.epsilon
            assert truth(trained) <= ledger.epsilon("ward") + 1e-9
        ledger.close()


def truth(trained: dict[str, Cost]) -> float:
    total = np.zeros_like(privacy.ORDERS)
    for task, cost in trained.items():
        if task.endswith(" settled"):
            continue
        settled = trained.get(f"{task} settled")
        steps = settled.steps if settled else cost.steps
        total = total + privacy.rdp(cost.noise_multiplier, cost.sample_rate, steps)
    return privacy.epsilon_of(total, LIMIT.delta)


def dying(survives: int) -> Any:
    real = os.pwrite

    def write(descriptor: int, data: bytes, offset: int) -> int:
        real(descriptor, data[:survives], offset)
        raise Crash

    return write
