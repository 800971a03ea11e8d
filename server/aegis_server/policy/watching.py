"""What a replica is told, so that it can decide by itself: `WatchPolicy`, without the doors.

There is no queue. Each turn looks at what is known now and at what this replica has been told, and
tells the difference; a replica that reads slowly is told less often, and then the newest.

Every message says when its sender last knew that there was nothing newer. A replica counts what it
has as fresh until then, so nothing may be told with a time at which something else, rules or
roles, was already known and not yet told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aegis.v1 import policy_pb2
from aegis_policy import Line
from aegis_server.policy.messages import revision_message
from aegis_server.policy.store import Revision

_PIECE_BYTES = 1024 * 1024
# Shorter than the second that is promised, by what telling takes.
_SIGN_SECONDS = 0.8
# Keys and lengths of a line in its message, at most.
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class State:
    """Which revision is in use here, and when it was last seen that there was no newer one.

    `looked_at` holds for rules and roles: the earlier of the two looks.
    """

    number: int
    digest: bytes
    looked_at: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """The roles that subjects have beside the rules; another version where they differ."""

    version: int
    roles: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Step:
    """What leads to a revision; `from_number` zero: `added` is all of it."""

    from_number: int
    to: Revision
    removed: Sequence[int]
    added: Sequence[tuple[int, Line]]


class Source(Protocol):
    """What there is to be told."""

    async def look(self) -> State:
        """Looks at Postgres now, for rules and roles; raises `Unavailable`."""

    def state(self) -> State:
        """Returns what the last look found, of rules that are in use."""

    def held(self) -> Held:
        """Returns the roles as the last look found them; raises `Unavailable` when outdated."""

    async def full(self) -> Step:
        """Returns all lines of the revision in use, or of a later one.

        Raises `FailedPrecondition` (POLICY_NOT_COMPILED) for a model that is not Aegis' own.
        """

    async def delta(self, number: int, digest: bytes) -> Step | None:
        """Returns what changed since a revision, up to the one in use or a later one.

        None when there never was such a revision with that digest; raises as `full`.
        """

    async def wait(self, seconds: float) -> None:
        """Returns when something may have changed, or after so long."""


async def watch(
    source: Source,
    request: policy_pb2.WatchPolicyRequest,
    *,
    piece_bytes: int = _PIECE_BYTES,
    sign_seconds: float = _SIGN_SECONDS,
) -> AsyncIterator[policy_pb2.WatchPolicyResponse]:
    """Yields what the replica lacks, then every change, and signs of life; never ends by itself."""
    has: tuple[int, bytes] = (request.revision, request.digest)
    roles_told: int | None = None
    # The replica counts from the moment it asked: the first time it reads must be a later one.
    yield _sign(await source.look())
    while True:
        if source.state().number < has[0]:
            # A step may lead beyond what was in use here when it was read.
            await source.look()
        state, held = source.state(), source.held()
        if held.version != roles_told:
            yield _directory(state, held)
            roles_told = held.version
        if (state.number, state.digest) != has:
            step = await _step(source, *has)
            for piece in _pieces(step, piece_bytes):
                yield _message(state, step.to.number, step=piece)
            has = (step.to.number, step.to.digest)
        else:
            yield _sign(state)
        await source.wait(sign_seconds)


async def _step(source: Source, number: int, digest: bytes) -> Step:
    step = await source.delta(number, digest) if number else None
    return step or await source.full()


def _pieces(step: Step, most: int) -> Iterator[policy_pb2.WatchPolicyResponse.Step]:
    """Cuts a step so that each piece has at most so many bytes, one line or number at the least."""
    to = revision_message(step.to)
    piece = policy_pb2.WatchPolicyResponse.Step(from_revision=step.from_number, to=to)
    size = start = piece.ByteSize() + _LINE_BYTES
    for item in _items(step):
        more = 10 if isinstance(item, int) else item.ByteSize() + 4
        if size + more > most and size > start:
            piece.more = True
            yield piece
            piece = policy_pb2.WatchPolicyResponse.Step(from_revision=step.from_number, to=to)
            size = start
        if isinstance(item, int):
            piece.removed_places.append(item)
        else:
            piece.added.append(item)
        size += more
    yield piece


def _items(step: Step) -> Iterable[int | policy_pb2.PlacedLine]:
    yield from step.removed
    for place, line in step.added:
        yield policy_pb2.PlacedLine(place=place, kind=line.kind, fields=line.fields)


def _sign(state: State) -> policy_pb2.WatchPolicyResponse:
    return _message(state, state.number)


def _directory(state: State, held: Held) -> policy_pb2.WatchPolicyResponse:
    roles = policy_pb2.WatchPolicyResponse.Directory.Roles
    return _message(
        state,
        state.number,
        directory=policy_pb2.WatchPolicyResponse.Directory(
            held={name: roles(roles=has) for name, has in held.roles.items() if has}
        ),
    )


def _message(
    state: State,
    current: int,
    *,
    step: policy_pb2.WatchPolicyResponse.Step | None = None,
    directory: policy_pb2.WatchPolicyResponse.Directory | None = None,
) -> policy_pb2.WatchPolicyResponse:
    message = policy_pb2.WatchPolicyResponse(
        step=step, directory=directory, current_revision=max(current, state.number)
    )
    message.time.FromDatetime(state.looked_at)
    return message
