"""The states of the rules: numbered without gaps, all of them kept, and how a new one is made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from aegis.errors import Internal, NotFound
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_policy import Engine, Line, PolicyError, read_rules, to_csv
from aegis_policy.baseline import baseline_csv
from aegis_server.policy import drafts, store
from aegis_server.policy.adoption import Adoption, adopted
from aegis_server.policy.changes import LineChange, drawn
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.drafts import Draft
from aegis_server.policy.loading import engine_at
from aegis_server.policy.lockout import RESOURCE, Lockout, Standing
from aegis_server.policy.places import arranged, fresh
from aegis_server.policy.store import Policy, Revision, StoredPolicyBroken
from aegis_server.policy.wishes import Outcome, Wish
from aegis_server.policy.writing import Writer

__all__ = ["RESOURCE", "Adopted", "Change", "Outcome", "Revisions"]

_FIRST_ACTOR = "server:aegis"


@dataclass(frozen=True, slots=True)
class Change:
    """A rule file somebody wants to be the policy, and why."""

    csv: str
    actor: str
    reason: str
    # The revision it was made from; 0 takes whatever is current.
    expected_revision: int = 0
    validate_only: bool = False
    # Casbin's model.conf; empty for Aegis' own.
    model_conf: str = ""


class Adopted(NamedTuple):
    """What came of adopting the baseline. Without anything to add, the current revision."""

    outcome: Outcome
    added: list[Line]
    left_out: list[Line]


class Revisions:
    """Reads revisions and makes new ones.

    What each of the making methods raises, `Writer.write` says.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        decisions: Decisions,
        clock: Callable[[], datetime],
        two_person: bool = False,
        standing: Standing = dict,
    ) -> None:
        self._database = database
        lockout = Lockout(
            held_roles=lambda subject: decisions.held_roles(subject),
            standing=standing,
            clock=clock,
        )
        self.writer = Writer(
            database,
            audit=audit,
            decisions=decisions,
            lockout=lockout,
            clock=clock,
            two_person=two_person,
        )

    async def ensure_first(self) -> None:
        """Stores the baseline as revision 1 unless there is a policy. Any number may call it."""
        draft = Draft(fresh(read_rules(baseline_csv()).lines))
        await self.writer.start_with(_FIRST_ACTOR, "the rules of a fresh installation", draft)

    async def get(self, number: int) -> tuple[Revision, str]:
        """Returns a revision, 0 being the newest, and its rules as CSV; raises `NotFound`."""
        policy = await self.read(number)
        return policy.revision, await asyncio.to_thread(to_csv, policy.lines)

    async def read(self, number: int) -> Policy:
        """Returns a revision, 0 being the newest; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        if number == 0:
            return await self.writer.current()
        async with self._database.transaction() as connection:
            try:
                policy = await store.read_placed(connection, number)
            except StoredPolicyBroken as error:
                raise Internal("INTERNAL", f"revision {number} is damaged") from error
        if policy is None:
            resource = f"{RESOURCE}/revisions/{number}"
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no revision {number}", resource=resource
            )
        return policy

    async def engine_of(self, number: int) -> Engine:
        """Returns the engine of an older revision; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        policy = await self.read(number)
        return await asyncio.to_thread(engine_at, policy.placed, policy.revision.model_conf)

    async def list(self, *, before: int | None, limit: int) -> Sequence[Revision]:
        """Returns revisions numbered below `before`, the newest first."""
        async with self._database.transaction() as connection:
            return await store.revisions(connection, before=before, limit=limit)

    async def lines_of(self, csv: str, model_conf: str) -> Sequence[Line]:
        """Reads a draft that is not to be stored; raises `InvalidArgument` (POLICY_INVALID)."""
        nothing = Policy(Revision(0, b"", b"", "", "", 0, None), ())
        try:
            draft = await asyncio.to_thread(drafts.of_text, nothing, csv, model_conf)
        except PolicyError as error:
            raise drafts.invalid(error, {}) from None
        return draft.lines

    async def import_rules(self, change: Change) -> Outcome:
        """Makes a rule file the next revision."""
        wish = Wish(
            change.actor,
            change.reason,
            expected_revision=change.expected_revision,
            validate_only=change.validate_only,
            details={"csv_sha256": hashlib.sha256(change.csv.encode()).hexdigest()},
        )
        return await self.writer.write(
            wish, lambda before: drafts.of_text(before, change.csv, change.model_conf)
        )

    async def apply(self, wish: Wish, changes: Sequence[LineChange]) -> Outcome:
        """Changes single lines, all of them or none; raises also what `changes.drawn` does."""
        wish = replace(wish, outcome="changed", details={"changes": str(len(changes))})
        return await self.writer.write(wish, lambda before: drawn(before, changes))

    async def roll_back(self, wish: Wish, number: int) -> Outcome:
        """Makes the rules of an older revision the next one; raises also `NotFound`."""
        old = await self.read(number)
        wish = replace(wish, outcome="rolled-back", details={"rolled_back_to": str(number)})
        return await self.writer.write(
            wish,
            lambda before: Draft(arranged(before.placed, old.lines), old.revision.model_conf),
        )

    async def adopt_baseline(self, wish: Wish) -> Adopted:
        """Adds the rules of a fresh installation that this policy never had.

        Raises also `FailedPrecondition` (POLICY_NOT_COMPILED) for a model of its own.
        """
        baseline = read_rules(baseline_csv()).lines
        async with self._database.transaction() as connection:
            known = await store.known_identities(connection, baseline)
        await self.writer.permit(wish.actor)
        current = await self.read(0)
        adoption = await asyncio.to_thread(adopted, current, baseline, known)
        if not adoption.added:
            return Adopted(Outcome(current.revision), [], adoption.left_out)

        def draw(before: Policy) -> Draft:
            nonlocal adoption
            adoption = adopted(before, baseline, known)
            return adoption.draft

        wish = replace(wish, outcome="adopted", details=_told(adoption))
        outcome = await self.writer.write(wish, draw)
        return Adopted(outcome, adoption.added, adoption.left_out)


def _told(adoption: Adoption) -> dict[str, str]:
    return {"added": str(len(adoption.added)), "left_out": str(len(adoption.left_out))}
