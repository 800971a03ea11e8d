"""The one way to a new revision, whoever wants it and however it was put together.

A change is drawn up from the revision that permitted it. If another one was faster, it is drawn up
again from that one, unless it said which revision it was made from: then its author has to look.
What is drawn has to be good rules that lock nobody out. Where two people are needed it is kept as a
proposal; the second person's approval comes this same way.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from aegis.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis_policy import Engine, PolicyError, to_csv
from aegis_policy.differences import differences
from aegis_server.policy import store
from aegis_server.policy.decisions import Decision, Decisions
from aegis_server.policy.drafts import Draft, engine_of, invalid
from aegis_server.policy.lockout import DOMAIN, RESOURCE, Lockout
from aegis_server.policy.places import step
from aegis_server.policy.proposals import store as proposals
from aegis_server.policy.proposals.store import Proposal
from aegis_server.policy.question import Question
from aegis_server.policy.snapshot import Snapshot
from aegis_server.policy.store import Head, Policy, Revision, StoredPolicyBroken
from aegis_server.policy.wishes import Approval, Outcome, Wish, approved, entry_of, told

_TRIES = 8
# A proposal shows at most so many differences; whoever needs all of them asks for the diff.
_DIFFERENCES_MAX = 100

# Draws the draft from what is current. Runs in a thread; may raise `PolicyError` and our errors.
Draw: TypeAlias = Callable[[Policy], Draft]


class _Moved(Exception):
    """Another revision came between."""

    def __init__(self, base: int, current: int) -> None:
        super().__init__()
        self.base = base
        self.current = current


class Writer:
    """Makes revisions, one after the other."""

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        decisions: Decisions,
        lockout: Lockout,
        clock: Callable[[], datetime],
        two_person: bool,
    ) -> None:
        self.database = database
        self.audit = audit
        self.clock = clock
        self._decisions = decisions
        self._lockout = lockout
        self._two_person = two_person
        self._writing = asyncio.Lock()
        self._kept: Policy | None = None

    async def write(self, wish: Wish, draw: Draw, approval: Approval | None = None) -> Outcome:
        """Makes the next revision, in force here when this returns, or a proposal of it.

        With `validate_only` nothing is stored and the revision that would follow is returned.
        Raises `InvalidArgument` (POLICY_INVALID), `Aborted` (REVISION_CONFLICT),
        `PermissionDenied` (POLICY_DENIED) by the newest rules, `Unavailable`, what `draw` raises.
        """
        # Within this process writers queue here, rather than to draw a second time at the head.
        async with self._writing:
            for left in reversed(range(_TRIES)):
                try:
                    return await self._attempt(wish, draw, approval)
                except _Moved as moved:
                    if wish.expected_revision or not left:
                        base = wish.expected_revision or moved.base
                        raise _conflict(base, moved.current) from None
        raise AssertionError("the last try returns or raises")

    async def permit(self, actor: str) -> Decision:
        """Returns the newest rules' leave to write; raises `PermissionDenied` (POLICY_DENIED)."""
        may = await self._decisions.decide(Question(actor, DOMAIN, RESOURCE, "write"), current=True)
        if not may.allowed:
            raise PermissionDenied(
                "POLICY_DENIED",
                f"{actor} may not write {RESOURCE}",
                subject=actor,
                resource=RESOURCE,
                action="write",
                rule_id=may.rule_id,
            )
        return may

    async def start_with(self, actor: str, reason: str, draft: Draft) -> None:
        """Stores the first revision, unless there is one."""
        wish = Wish(actor, reason)
        async with self.database.transaction() as connection:
            head = await store.lock_head(connection)
            if head.revision == 0:
                revision = self._following(head, draft, wish, None)
                await store.append(connection, revision, step((), draft.placed))
                entry = entry_of(wish, "imported", None, **told(revision))
                await self.audit.record_in(connection, entry)

    async def current(self) -> Policy:
        """Returns the newest revision."""
        async with self.database.transaction() as connection:
            return await self._read(connection, await store.head(connection))

    async def _attempt(self, wish: Wish, draw: Draw, approval: Approval | None) -> Outcome:
        may = await self.permit(wish.actor)
        snapshot = self._decisions.snapshot
        if snapshot.revision != may.revision:
            raise _Moved(may.revision, snapshot.revision)
        if wish.expected_revision not in (0, may.revision):
            raise _conflict(wish.expected_revision, may.revision)
        head = Head(snapshot.revision, snapshot.digest)
        async with self.database.transaction() as connection:
            before = await self._read(connection, head)
        draft, engine = await self._drawn(wish, draw, before, snapshot.engine, may)
        revision = await asyncio.to_thread(self._following, head, draft, wish, approval)
        if wish.validate_only:
            return Outcome(revision)
        if self._two_person and approval is None:
            return await self._propose(wish, revision, before, draft, may)
        async with self.database.transaction() as connection:
            await self._still(connection, head)
            await store.append(connection, revision, step(before.placed, draft.placed))
            entry = entry_of(wish, wish.outcome, may, **told(revision))
            if approval is not None:
                await self._approve(connection, wish, revision, approval)
                entry = approved(wish, may, revision, approval)
            await self.audit.record_in(connection, entry)
        self._kept = Policy(revision, tuple(draft.placed))
        self._decisions.adopt(Snapshot(revision.number, revision.digest, engine))
        return Outcome(revision)

    async def _drawn(
        self, wish: Wish, draw: Draw, before: Policy, current: Engine, may: Decision
    ) -> tuple[Draft, Engine]:
        """Returns the draft with its engine; records a refusal."""
        draft: Draft | None = None
        try:
            draft = await asyncio.to_thread(draw, before)
            engine = await asyncio.to_thread(engine_of, draft, before, current)
            await asyncio.to_thread(self._lockout.refuse, engine, wish.actor)
        except PolicyError as error:
            refusal = invalid(error, draft.origins if draft else {})
            await self._record_refusal(wish, may, len(error.violations))
            raise refusal from None
        except InvalidArgument as error:
            await self._record_refusal(wish, may, len(error.violations))
            raise
        return draft, engine

    async def _read(self, connection: Connection, head: Head) -> Policy:
        """Returns the revision at the head; the last one is kept, as mostly it is asked for."""
        kept = self._kept
        if kept is not None and (kept.revision.number, kept.revision.digest) == head:
            return kept
        try:
            policy = await store.read_placed(connection, head.revision)
        except StoredPolicyBroken as error:
            raise _damaged(f"revision {head.revision}") from error
        if policy is None or policy.revision.digest != head.digest:
            raise _damaged(f"revision {head.revision}")
        self._kept = policy
        return policy

    async def _still(self, connection: Connection, base: Head) -> None:
        """Locks the head; raises `_Moved` unless it is still the revision that gave leave."""
        head = await store.lock_head(connection)
        if head != base:
            raise _Moved(base.revision, head.revision)

    def _following(
        self, head: Head, draft: Draft, wish: Wish, approval: Approval | None
    ) -> Revision:
        return Revision(
            number=head.revision + 1,
            prev_digest=head.digest,
            digest=store.chained_digest(head.digest, draft.lines, draft.model_conf),
            actor=approval.proposal.proposer if approval else wish.actor,
            reason=wish.reason,
            rule_count=len(draft.placed),
            at=None if wish.validate_only else self.clock(),
            model_conf=draft.model_conf,
        )

    async def _propose(
        self, wish: Wish, revision: Revision, before: Policy, draft: Draft, may: Decision
    ) -> Outcome:
        shown = await asyncio.to_thread(_differences, before, draft)
        proposal = Proposal(
            number=0,
            proposal_id=str(uuid.uuid4()),
            base_revision=before.revision.number,
            digest=revision.digest,
            proposer=wish.actor,
            reason=wish.reason,
            details={"outcome": wish.outcome, **wish.details},
            differences=shown,
            created_at=self.clock(),
        )
        csv = await asyncio.to_thread(to_csv, draft.lines)
        async with self.database.transaction() as connection:
            await self._still(connection, Head(before.revision.number, before.revision.digest))
            await proposals.insert(connection, proposal, csv, draft.model_conf)
            entry = entry_of(
                wish,
                "proposed",
                may,
                proposal=proposal.proposal_id,
                base_revision=str(proposal.base_revision),
                digest=revision.digest.hex(),
                lines=str(revision.rule_count),
            )
            await self.audit.record_in(connection, entry)
        return Outcome(None, proposal.proposal_id)

    async def _approve(
        self, connection: Connection, wish: Wish, revision: Revision, approval: Approval
    ) -> None:
        if revision.digest != approval.proposal.digest:
            raise _damaged("the proposal")
        settled = await proposals.settle(
            connection,
            approval.proposal.proposal_id,
            state="approved",
            decider=wish.actor,
            at=self.clock(),
            revision=revision.number,
        )
        if not settled:
            raise already_decided("decided")

    async def _record_refusal(self, wish: Wish, may: Decision, violations: int) -> None:
        if not wish.validate_only:
            entry = entry_of(
                wish, "refused", may, reason="POLICY_INVALID", violations=str(violations)
            )
            await self.audit.record(entry)


def already_decided(state: str) -> FailedPrecondition:
    """Returns the error for a proposal that nobody decides a second time."""
    return FailedPrecondition("PROPOSAL_DECIDED", f"the proposal is {state} already", state=state)


def _damaged(what: str) -> Internal:
    # Nothing is built on it: a line that went missing may have been a deny.
    return Internal("INTERNAL", f"{what} is damaged")


def _conflict(expected: int, current: int) -> Aborted:
    return Aborted(
        "REVISION_CONFLICT",
        f"the current revision is {current}; read it and change that",
        expected=expected,
        current=current,
    )


def _differences(before: Policy, draft: Draft) -> list[list[str]]:
    """Returns differences as texts, cut to what a list of proposals can carry."""
    found = differences(before.lines, draft.lines)
    shown = [[each.text, each.before, each.after] for each in found[:_DIFFERENCES_MAX]]
    if before.revision.model_conf != draft.model_conf:
        shown.insert(0, ["the model changes", "", ""])
    if len(found) > _DIFFERENCES_MAX:
        shown.append([f"and {len(found) - _DIFFERENCES_MAX} more", "", ""])
    return shown
