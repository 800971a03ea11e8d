"""Asks participants in one try of a round: again when they fail, and others instead.

In waves. When a wave is over (all have answered, enough have and the grace is over, or the deadline
has come), those that failed are asked again after a pause, and for each that will not be asked
again one that was not drawn is asked instead. Who is silent is waited for and not asked again: it
may still be at work.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from aegis.v1 import training_pb2
from aegis_server.training.flower import (
    SITE_GAVE_UP,
    SITE_REFUSED,
    ArrayRecord,
    ConfigRecord,
    Message,
)
from aegis_server.training.selection import Choice
from aegis_server.training.strategy import ReviewedStrategy, Site

_PAUSE_SECONDS = 0.5
_PAUSE_SECONDS_MAX = 8.0


class Gathering(Protocol):
    """What asking needs of a Grid."""

    def gather(
        self, messages: Iterable[Message], *, timeout: float, enough: int, grace: float
    ) -> list[Message]:
        """Returns the answers that arrive in time, see `LocalGrid.gather`."""


@dataclass(slots=True)
class Tally:
    """What asking one participant has taken."""

    tries: int = 0
    steps: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked in one try of a round.

    `config` makes the message's settings from the number under which a participant is asked,
    `first`, `first` + 1, …; `left` are the private steps each may still be asked for, where that
    is bounded.
    """

    round: int
    arrays: ArrayRecord
    config: Callable[[int], ConfigRecord]
    first: int
    left: Mapping[str, int]


class Asking:
    """One try of a round. `tallies` says what it took, participant by participant."""

    def __init__(
        self,
        plan: training_pb2.RunPlan,
        grid: Gathering,
        strategy: ReviewedStrategy,
        sites: Iterable[Site],
    ) -> None:
        self._plan = plan
        self._grid = grid
        self._strategy = strategy
        self._nodes = {site.name: site.node_id for site in sites}
        self._names = {site.node_id: site.name for site in sites}
        self._grace = (
            plan.grace.ToTimedelta().total_seconds() if plan.HasField("grace") else float("inf")
        )
        self.tallies: dict[str, Tally] = {}

    def ask(self, question: Question, choice: Choice) -> list[Message]:
        """Returns the last answer of everybody who gave one, by node."""
        end = time.monotonic() + self._plan.round_deadline.ToTimedelta().total_seconds()
        spare = deque(choice.spare)
        replies: dict[str, Message] = {}
        wave = list(choice.asked)
        while wave:
            answered = sum(not reply.has_error() for reply in replies.values())
            needed = max(0, self._plan.min_participants - answered)
            replies |= self._gather(question, wave, needed, end)
            answered = sum(not reply.has_error() for reply in replies.values())
            if answered >= self._plan.min_participants:
                end = min(end, time.monotonic() + self._grace)
            failed = [name for name in wave if name in replies and replies[name].has_error()]
            again = [name for name in failed if self._may_again(question, name, replies[name])]
            if again and not self._wait(max(self.tallies[n].tries for n in again), end):
                again = []
            instead = [spare.popleft() for _ in failed[len(again) :] if spare]
            wave = again + instead
            if time.monotonic() >= end:
                break
        return [replies[name] for name in sorted(replies, key=lambda name: self._nodes[name])]

    def _may_again(self, question: Question, name: str, reply: Message) -> bool:
        tally = self.tallies[name]
        return (
            reply.error.code not in (SITE_REFUSED, SITE_GAVE_UP)
            and tally.tries <= self._plan.retries
            and tally.steps + self._plan.local_steps <= question.left.get(name, sys.maxsize)
        )

    def _wait(self, tries: int, end: float) -> bool:
        """Pauses longer from try to try; False when the round is over before that."""
        seconds = min(_PAUSE_SECONDS * 2.0 ** (tries - 1), _PAUSE_SECONDS_MAX)
        if time.monotonic() + seconds >= end:
            return False
        time.sleep(seconds)
        return True

    def _gather(
        self, question: Question, wave: Iterable[str], needed: int, end: float
    ) -> dict[str, Message]:
        began, now = time.monotonic(), time.time()
        messages: list[Message] = []
        by_tries = sorted(wave, key=self._tries)
        for tries, names in groupby(by_tries, key=self._tries):
            config = question.config(question.first + tries)
            nodes = [self._nodes[name] for name in names]
            messages += self._strategy.messages(question.round, question.arrays, config, nodes)
        sent = sum(len(array.data) for array in question.arrays.values())
        for message in messages:
            tally = self.tallies.setdefault(self._names[message.metadata.dst_node_id], Tally())
            tally.tries += 1
            tally.steps += self._plan.local_steps
            tally.bytes_sent += sent
        timeout = max(0.0, end - began)
        found = self._grid.gather(
            messages, timeout=timeout, enough=needed, grace=min(self._grace, timeout)
        )
        elapsed = time.monotonic() - began
        replies = {self._names[reply.metadata.src_node_id]: reply for reply in found}
        for message in messages:
            name = self._names[message.metadata.dst_node_id]
            tally = self.tallies[name]
            reply = replies.get(name)
            if reply is None:
                tally.seconds += elapsed
                continue
            tally.seconds += min(max(reply.metadata.created_at - now, 0.0), elapsed)
            if reply.has_error():
                # Whoever refuses at once does not train.
                tally.steps -= self._plan.local_steps * (reply.error.code == SITE_REFUSED)
                continue
            tally.bytes_received += size_of(reply)
        return replies

    def _tries(self, name: str) -> int:
        return self.tallies[name].tries if name in self.tallies else 0


def size_of(message: Message) -> int:
    """Returns the bytes of the arrays of a message."""
    # Not `array_records`: what that returns refers to itself and would keep the message in memory.
    records = [each for each in message.content.values() if isinstance(each, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())
