"""The states of the rules: imported whole, numbered without gaps, all of them kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import (
    Aborted,
    AegisError,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_policy import Engine, PolicyError, RuleFile, Violation, to_csv
from aegis_policy.baseline import baseline_csv
from aegis_server.policy import store
from aegis_server.policy.decisions import Decision, Decisions, Question, Snapshot
from aegis_server.policy.store import Head, Revision, StoredPolicyBroken

RESOURCE = "/policy"
_DOMAIN = "aegis"
_FIRST_ACTOR = "server:aegis"
# Errors travel in HTTP/2 trailers, which peers bound at 8 KiB: name this much, count the rest.
_VIOLATION_BYTES_MAX = 3072


@dataclass(frozen=True, slots=True)
class Change:
    """A rule file somebody wants to be the policy, and why."""

    csv: str
    actor: str
    reason: str
    # The revision it was made from; 0 takes whatever is current.
    expected_revision: int = 0
    validate_only: bool = False


class Revisions:
    """Reads and imports revisions."""

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        decisions: Decisions,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._decisions = decisions
        self._clock = clock

    async def ensure_first(self) -> None:
        """Stores the baseline as revision 1 unless there is a policy. Any number may call it."""
        rules = Engine.from_csv(baseline_csv()).rules
        change = Change("", _FIRST_ACTOR, "the rules of a fresh installation")
        async with self._database.transaction() as connection:
            head = await store.lock_head(connection)
            if head.revision == 0:
                await self._store(connection, self._following(head, rules, change), rules)

    async def get(self, number: int) -> tuple[Revision, str]:
        """Returns a revision, 0 being the newest, and its rules as CSV; raises `NotFound`."""
        async with self._database.transaction() as connection:
            number = number or (await store.head(connection)).revision
            try:
                stored = await store.read_back(connection, number)
            except StoredPolicyBroken as error:
                raise Internal("INTERNAL", f"revision {number} is damaged") from error
        if stored is None:
            resource = f"{RESOURCE}/revisions/{number}"
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no revision {number}", resource=resource
            )
        return stored[0], to_csv(stored[1])

    async def import_rules(self, change: Change) -> Revision:
        """Makes a rule file the next revision, in force here when this returns.

        With `validate_only` nothing is stored and the revision that would follow is returned.
        Raises `InvalidArgument` (POLICY_INVALID) naming the bad lines, `Aborted`
        (REVISION_CONFLICT), `PermissionDenied` (POLICY_DENIED) by the newest rules, `Unavailable`.
        """
        may = await self._decisions.decide(_may_write(change.actor), current=True)
        if not may.allowed:
            raise _denied(change.actor, may)
        try:
            engine = await asyncio.to_thread(Engine.from_csv, change.csv)
            self._refuse_lockout(engine, change.actor)
        except PolicyError as error:
            await self._record_refusal(change, may, len(error.violations))
            raise _invalid(error) from None
        async with self._database.transaction() as connection:
            head = await store.lock_head(connection)
            # The permission above came from `may.revision`; a newer one may have taken it away.
            if head.revision != may.revision or change.expected_revision not in (0, head.revision):
                raise Aborted(
                    "REVISION_CONFLICT",
                    f"the current revision is {head.revision}; read it and change that",
                    expected=change.expected_revision or may.revision,
                    current=head.revision,
                )
            revision = self._following(head, engine.rules, change)
            if change.validate_only:
                return revision
            await self._store(connection, revision, engine.rules, may)
        self._decisions.adopt(Snapshot(revision.number, revision.digest, engine))
        return revision

    def _refuse_lockout(self, engine: Engine, actor: str) -> None:
        """Raises `PolicyError` for rules that would keep their own author from repairing them.

        So there is always somebody who can; another writer may still remove this one.
        """
        after = engine.decide(
            subject=actor,
            domain=_DOMAIN,
            resource=RESOURCE,
            action="write",
            roles=self._decisions.held_roles(actor),
            now=self._clock(),
        )
        if not after.allowed:
            by = f" by rule {after.rule_id}" if after.rule_id else ""
            text = f"under these rules {actor} could not write {RESOURCE} any more{by}"
            raise PolicyError([Violation(0, 0, text)])

    def _following(self, head: Head, rules: RuleFile, change: Change) -> Revision:
        return Revision(
            number=head.revision + 1,
            prev_digest=head.digest,
            digest=store.chained_digest(head.digest, rules.lines),
            actor=change.actor,
            reason=change.reason,
            rule_count=len(rules.lines),
            at=None if change.validate_only else self._clock(),
        )

    async def _store(
        self,
        connection: Connection,
        revision: Revision,
        rules: RuleFile,
        may: Decision | None = None,
    ) -> None:
        before = None
        if revision.number > 1:
            before = await store.read_back(connection, revision.number - 1)
        await store.append(
            connection, revision, before=before[1] if before else [], after=rules.lines
        )
        await self._audit.record_in(
            connection,
            Entry(
                kind=audit_pb2.AUDIT_KIND_POLICY_CHANGE,
                actor=revision.actor,
                action="write",
                resource=RESOURCE,
                outcome="imported",
                policy_revision=may.revision if may else 0,
                rule_id=may.rule_id if may else "",
                subject_id=f"policy/{revision.number}",
                details={
                    "revision": str(revision.number),
                    "digest": revision.digest.hex(),
                    "lines": str(revision.rule_count),
                },
                attachments={"reason": revision.reason.encode()} if revision.reason else {},
            ),
        )

    async def _record_refusal(self, change: Change, may: Decision, violations: int) -> None:
        if change.validate_only:
            return
        await self._audit.record(
            Entry(
                kind=audit_pb2.AUDIT_KIND_POLICY_CHANGE,
                actor=change.actor,
                action="write",
                resource=RESOURCE,
                outcome="refused",
                reason="POLICY_INVALID",
                policy_revision=may.revision,
                rule_id=may.rule_id,
                details={
                    "csv_sha256": hashlib.sha256(change.csv.encode()).hexdigest(),
                    "violations": str(violations),
                },
            )
        )


def _may_write(actor: str) -> Question:
    return Question(actor, _DOMAIN, RESOURCE, "write")


def _denied(actor: str, decision: Decision) -> AegisError:
    return PermissionDenied(
        "POLICY_DENIED",
        f"{actor} may not write {RESOURCE}",
        subject=actor,
        resource=RESOURCE,
        action="write",
        rule_id=decision.rule_id,
    )


def _invalid(error: PolicyError) -> InvalidArgument:
    return InvalidArgument("POLICY_INVALID", str(error), violations=_named(error))


def _named(error: PolicyError) -> Iterator[FieldViolation]:
    left = _VIOLATION_BYTES_MAX
    for index, bad in enumerate(error.violations):
        named = FieldViolation("csv", bad.expected)
        if bad.line:
            named = FieldViolation(f"line {bad.line}", f"column {bad.column}: {bad.expected}")
        left -= len(named.field) + len(named.description.encode())
        if left < 0:
            yield FieldViolation("csv", f"and {len(error.violations) - index} more")
            return
        yield named
