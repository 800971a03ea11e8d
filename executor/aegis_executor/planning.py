"""A plan: what a remedy would change, as the cluster itself says, and what speaks against it.

The same is made when somebody asks and again before it is done. What was approved is the digest
of the difference: when that is another one at the time of execution, nothing is done.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aegis.errors import Aborted, NotFound
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue import gates as object_gates
from aegis_executor.catalogue.base import Change, Gate, Remedy, Seen, Standing
from aegis_executor.differences import Difference, differences, digest, shown, unmarked
from aegis_executor.kubernetes import ClusterRefused, ClusterSilent, ClusterUnreachable
from aegis_executor.reading import Cluster, see

TRIES_MAX = 5
REPEAT_SECONDS = 0.05
# Who only plans has no action yet, and nobody who approved it.
_NO_ACTION = "planned"
_NOTHING = Standing()


@dataclass(frozen=True, slots=True)
class Draft:
    """A change as it was worked out, before the cluster was asked to try it."""

    seen: Seen
    # None when there is nothing left to change.
    change: Change | None
    gates: Sequence[Gate]
    uid: str
    # Zero where the kind has none.
    generation: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A change that the cluster has tried."""

    draft: Draft
    # With what may be secret replaced.
    differences: Sequence[Difference]
    diff_sha256: bytes
    warnings: Sequence[str]

    @property
    def change(self) -> Change | None:
        """What would be sent; None when there is nothing left to change."""
        return self.draft.change

    @property
    def gates(self) -> Sequence[Gate]:
        """What the object has against it."""
        return self.draft.gates

    @property
    def generation(self) -> int:
        """Of the object; zero where the kind has none."""
        return self.draft.generation


Check: TypeAlias = Callable[[Draft], None]


def _accept(draft: Draft) -> None:
    """Whoever plans wants to see what speaks against it, all of it."""


def may_repeat(change: Change, refused: ClusterRefused) -> bool:
    """True for a conflict with a version that moved: a controller's status update is enough.

    With evictions there is no version in play, and a conflict means that the pod is another one.
    """
    return refused.code == 409 and change.verb != "evict"


class Planner:
    """Plans for one cluster; changes nothing.

    All methods raise what `Remedy.plan` raises, and the errors of the cluster's port: where it is
    silent nothing was done, so that counts as unreachable.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def plan(
        self,
        remedy: Remedy,
        *,
        action_id: str = _NO_ACTION,
        standing: Standing = _NOTHING,
        check: Check = _accept,
    ) -> Planned:
        """Returns what would change, tried by the cluster.

        What `check` raises about the draft comes before the trial.
        """
        for number in range(1, TRIES_MAX + 1):
            draft = await self.draft(remedy, action_id=action_id, standing=standing)
            check(draft)
            try:
                return await self._tried(draft, action_id)
            except ClusterRefused as refused:
                if draft.change is None or not may_repeat(draft.change, refused):
                    raise
            await asyncio.sleep(REPEAT_SECONDS * number)
        raise Aborted("TARGET_CHANGED", f"the object changed {TRIES_MAX} times meanwhile")

    async def draft(
        self, remedy: Remedy, *, action_id: str = _NO_ACTION, standing: Standing = _NOTHING
    ) -> Draft:
        """Reads what the remedy needs; returns its change and what speaks against it."""
        try:
            seen = await see(self._cluster, remedy)
        except ClusterSilent as error:
            raise ClusterUnreachable(str(error)) from error
        change = remedy.plan(seen, action_id)
        if seen.live is None:  # every remedy refuses that
            raise NotFound("TARGET_GONE", f"{remedy.place} is not there any more")
        metadata = seen.live["metadata"]
        return Draft(
            seen=seen,
            change=change,
            gates=object_gates.of(remedy, seen, standing),
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
        )

    async def _tried(self, draft: Draft, action_id: str) -> Planned:
        tried, warnings = None, list[str]()
        if draft.change is not None:
            try:
                tried, warnings = await self._cluster.dry_run(draft.change)
            except ClusterSilent as error:
                raise ClusterUnreachable(str(error)) from error
        live = draft.seen.live or {}
        found = unmarked(differences(live, draft.change, tried), action_id)
        return Planned(
            draft=draft,
            differences=shown(found, secrets.token_bytes(32)),
            diff_sha256=digest(found),
            warnings=warnings,
        )


def filled(spec: envelope_pb2.ActionSpec, planned: Planned) -> bytes:
    """Returns the spec to be signed: the object that was seen, and what would change of it.

    Serialised here and never again: its digest is what everybody approves.
    """
    complete = envelope_pb2.ActionSpec()
    complete.CopyFrom(spec)
    complete.target.uid = planned.draft.uid
    complete.preconditions.generation = planned.draft.generation
    complete.preconditions.diff_sha256 = planned.diff_sha256
    return complete.SerializeToString()
