"""A Grid for applications with a round loop of their own.

Ours is told which round a message is for. An application says it in the message, as Flower's
strategies do ("server-round"), and goes on to the next round when it likes: this is where that is
noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aegis_server.training.flower import FlowerRun, Grid, Message, RecordDict


class ApplicationGrid(Grid):
    """Hands everything on to `grid`; calls `advance` before the first message of each round.

    `advance` is given the round's number, counted from 1; messages that name none belong to the
    round of those before.
    """

    def __init__(self, grid: Grid, advance: Callable[[int], None]) -> None:
        self._grid = grid
        self._advance = advance
        self._round = 0

    def set_run(self, run: FlowerRun) -> None:
        """As `grid`'s."""
        self._grid.set_run(run)

    @property
    def run(self) -> FlowerRun:
        """As `grid`'s."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As `grid`'s."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As `grid`'s."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As `grid`'s, in their round."""
        return self._grid.push_messages(self._in_time(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As `grid`'s."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As `grid`'s, in their round."""
        return self._grid.send_and_receive(messages=self._in_time(messages), timeout=timeout)

    def _in_time(self, messages: Iterable[Message]) -> list[Message]:
        waiting = list(messages)
        newest = max((_round_of(message) for message in waiting), default=0)
        first = self._round == 0
        if newest > self._round or first:
            self._round = max(newest, 1)
            self._advance(self._round)
        return waiting


def _round_of(message: Message) -> int:
    for config in message.content.config_records.values():
        number = config.get("server-round")
        if isinstance(number, int):
            return number
    return 0
