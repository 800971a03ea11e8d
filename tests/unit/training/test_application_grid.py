"""An application goes on to its next round when it likes, and we notice."""

from __future__ import annotations

from typing import Any

from aegis_server.training.application_grid import ApplicationGrid
from aegis_server.training.flower import ConfigRecord, Message, RecordDict
from aegis_server.training.grid import LocalGrid


def echo(message: Message, context: Any) -> Message:
    return Message(message.content, reply_to=message)


def say(grid: ApplicationGrid, **config: int) -> list[Message]:
    messages = [
        grid.create_message(RecordDict({"config": ConfigRecord(config)}), "train", node, "")
        for node in grid.get_node_ids()
    ]
    return list(grid.send_and_receive(messages=messages, timeout=10))


def test_each_round_is_announced_once_and_before_its_messages() -> None:
    """Training and evaluation are of one round; an older number changes nothing."""
    seen: list[int] = []
    grid = ApplicationGrid(LocalGrid({1: (echo, {}), 2: (echo, {})}), seen.append)  # type: ignore[dict-item]
    for number in (1, 1, 2, 1, 3):
        assert len(say(grid, **{"server-round": number})) == 2
    assert seen == [1, 2, 3]


def test_messages_that_name_no_round_are_of_the_one_before() -> None:
    """The first, where there was none."""
    seen: list[int] = []
    grid = ApplicationGrid(LocalGrid({1: (echo, {})}), seen.append)  # type: ignore[dict-item]
    for config in ({}, {"server-round": 2}, {}):
        say(grid, **config)
    assert seen == [1, 2]
    assert grid.run.run_id == 1
