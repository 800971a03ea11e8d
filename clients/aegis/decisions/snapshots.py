"""The rules a replica holds: verified as a whole, replaced as a whole.

A snapshot is one revision and never changes. A step brings it to another: its pieces are collected,
applied to a copy, and the digest of the result is compared with the one the revision was chained
under. Only then it is a snapshot; nobody ever asks a half of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aegis.v1 import policy_pb2
from aegis_policy import Engine, Line, PolicyError, read_rules, to_csv


class BrokenStep(Exception):
    """What came does not lead from what is held to what was announced."""


class UnusableRules(Exception):
    """What came is what was announced, but cannot be decided by here."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision, ready to decide. `texts` are its lines as canonical CSV, by place."""

    revision: int
    digest: bytes
    engine: Engine
    texts: Mapping[int, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """All of a step; `from_revision` zero: `added` is everything."""

    from_revision: int
    to: policy_pb2.PolicyRevision
    removed: Sequence[int]
    added: Sequence[tuple[int, Line]]

    def apply(self, held: Snapshot | None) -> Snapshot:
        """Returns what it leads to; `held` stays as it is.

        Takes long for many lines: not for the event loop. Raises `BrokenStep`, `UnusableRules`.
        """
        before = held if self.from_revision else None
        if self.from_revision != (before.revision if before else 0):
            raise BrokenStep(f"a step from revision {self.from_revision}, which is not held")
        follows = before is not None and self.to.revision == before.revision + 1
        if follows and before is not None and self.to.prev_digest != before.digest:
            raise BrokenStep(f"revision {self.to.revision} does not follow the one held")
        if self.to.model_digest:
            raise UnusableRules("the policy has a model of its own; ask the server instead")
        texts = self._texts(before)
        places = sorted(texts)
        csv = "".join([texts[place] for place in places])
        content = hashlib.sha256(csv.encode()).digest()
        if hashlib.sha256(self.to.prev_digest + content).digest() != self.to.digest:
            raise BrokenStep(f"the lines are not those of revision {self.to.revision}")
        try:
            engine = (
                before.engine.updated(removed=self.removed, added=self.added)
                if before is not None
                else Engine(read_rules(csv), places=places)
            )
        except PolicyError as error:
            raise UnusableRules(str(error)) from error
        return Snapshot(self.to.revision, self.to.digest, engine, texts)

    def _texts(self, before: Snapshot | None) -> dict[int, str]:
        texts = dict(before.texts) if before else {}
        try:
            for place in self.removed:
                del texts[place]
        except KeyError as error:
            raise BrokenStep(f"place {error} is removed, but was not held") from None
        count = len(texts) + len(self.added)
        texts.update((place, to_csv([line])) for place, line in self.added)
        if len(texts) != count:
            raise BrokenStep("a place was given twice")
        return texts


class Assembly:
    """Puts the pieces of a step together."""

    def __init__(self) -> None:
        self._first: policy_pb2.WatchPolicyResponse.Step | None = None
        self._removed: list[int] = []
        self._added: list[tuple[int, Line]] = []

    def add(self, piece: policy_pb2.WatchPolicyResponse.Step) -> Step | None:
        """Returns the step when this was its last piece; raises `BrokenStep`."""
        first = self._first or piece
        if (piece.from_revision, piece.to) != (first.from_revision, first.to):
            raise BrokenStep("the pieces of two steps are mixed")
        self._removed.extend(piece.removed_places)
        self._added.extend(
            (line.place, Line(line.kind, tuple(line.fields))) for line in piece.added
        )
        if piece.more:
            self._first = first
            return None
        step = Step(piece.from_revision, piece.to, self._removed, self._added)
        self._first, self._removed, self._added = None, [], []
        return step
