"""What a message says about its task: one reading of its content, for header and site alike."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_server.training.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    RecordDict,
    content_bytes,
    content_of,
)
from aegis_server.training.grid import LocalGrid
from aegis_server.training.headers import groups_of, header_of
from aegis_server.training.relaying import Header

PRIVATE = {
    "server-round": 4,
    "repeat": 2,
    "noise-multiplier": 1.5,
    "sample-rate": 0.25,
    "steps": 8,
    "clip-norm": 0.5,
}


@pytest.fixture(autouse=True)
def identity() -> None:
    """Messages need one; a Grid takes it on for the process."""
    LocalGrid({})


def _record(config: dict[str, int | float | bool] | None = None) -> RecordDict:
    records: dict[str, ArrayRecord | ConfigRecord] = {
        "arrays": ArrayRecord({"w": Array(np.zeros(4, np.float32))})
    }
    if config is not None:
        records["config"] = ConfigRecord(config)  # type: ignore[arg-type]
    return RecordDict(records)  # type: ignore[arg-type]


def _header(config: dict[str, int | float | bool] | None) -> Header:
    [group] = groups_of([Message(_record(config), 7, "train", group_id="4")])
    return header_of(group, now=(1, 0), delta=1e-3, seconds=2.5)


def test_round_try_and_mechanism_are_those_of_the_content() -> None:
    """Sites refuse a task whose header says otherwise."""
    header = _header(PRIVATE)
    assert (header.round, header.repeat, header.group_id) == (4, 2, "4")
    assert header.time_left.ToTimedelta().total_seconds() == 2.5
    mechanism = header.mechanism
    assert (mechanism.noise_multiplier, mechanism.sample_rate) == (1.5, 0.25)
    assert (mechanism.steps, mechanism.clip_norm, mechanism.delta) == (8, 0.5, 1e-3)


def test_a_foreign_content_is_for_the_round_that_began() -> None:
    """It says nothing about rounds, and promises nothing."""
    header = _header(None)
    assert (header.round, header.repeat, header.HasField("mechanism")) == (1, 0, False)


@pytest.mark.parametrize(
    "change", [{"simulation": True}, {"noise-multiplier": 0.0}], ids=["simulation", "no noise"]
)
def test_without_noise_of_its_own_nothing_is_promised(change: dict[str, bool | float]) -> None:
    """A simulation's noise can be repeated; no noise is none."""
    assert not _header({**PRIVATE, **change}).HasField("mechanism")


def test_equal_contents_are_one_group() -> None:
    """Whether they are one object or two."""
    shared = _record()
    messages = [Message(shared, 1, "train"), Message(shared, 2, "train")]
    messages += [Message(_record(), 3, "train"), Message(_record(PRIVATE), 4, "train")]
    groups = groups_of(iter(messages))
    assert [len(group.messages) for group in groups] == [3, 1]


def test_content_survives_the_way() -> None:
    """Bytes and back; equal contents have equal bytes."""
    data = content_bytes(_record(PRIVATE))
    assert content_bytes(content_of(data)) == data
    with pytest.raises(ValueError, match="no content"):
        content_of(b"\xff\xff\xff")
