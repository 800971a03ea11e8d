"""Decisions by the newest rules this process knows, from memory, Redis or the engine.

A snapshot is one revision: its engine and the answers it gave. It never changes; new rules are
built beside it and one reference is swapped. Every decision takes the snapshot once and uses it
for key, memory and evaluation alike, so an answer can never mix two revisions.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.errors import AegisError, InvalidArgument, Unavailable
from aegis.errors import FieldViolation as Violation
from aegis.serving.database import Database
from aegis_policy import Engine, PolicyError, RequestError, to_csv
from aegis_server.policy import store
from aegis_server.policy.cache import DecisionCache, Verdict
from aegis_server.policy.question import Question, digest_of
from aegis_server.policy.store import StoredPolicyBroken

__all__ = ["Decision", "Decisions", "Question", "Snapshot", "Source"]

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["engine", "memory", "redis"]
_REMEMBERED_MAX = 10_000
# PyCasbin looks at every rule. Above this many lines that is too long to hold the event loop.
_INLINE_LINES_MAX = 500
_READ_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer with its grounds. `rule_id` is empty when no rule allowed."""

    allowed: bool
    rule_id: str
    revision: int
    decision_id: str
    valid_until: datetime | None
    source: Source


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of the rules, ready to decide."""

    revision: int
    digest: bytes
    engine: Engine
    _remembered: OrderedDict[str, Verdict] = field(default_factory=OrderedDict, repr=False)

    def name_of(self, question: Question) -> str:
        """Returns the key of an answer, or an empty string when it is not worth keeping.

        Subjects no rule names get the same refusal for everything: keeping those would only let
        strangers fill the cache. The digests keep apart what shares a revision number, as two
        databases on one Redis do.
        """
        if not question.roles and not self.engine.knows(question.subject):
            return ""
        digest = digest_of(
            self.engine.model.digest.hex(),
            self.digest.hex(),
            question.domain,
            question.subject,
            question.roles,
            question.resource,
            question.action,
            self.engine.relevant(question.attributes),
        )
        return f"r{self.revision}:aegis:decision:{digest}"

    def recall(self, name: str, now: datetime) -> Verdict | None:
        """Returns the remembered answer if it is still good."""
        verdict = self._remembered.get(name)
        if verdict is None or not verdict.good_at(now):
            return None
        self._remembered.move_to_end(name)
        return verdict

    def remember(self, name: str, verdict: Verdict) -> None:
        """Keeps an answer, and forgets the one unused for longest when there are too many."""
        self._remembered[name] = verdict
        self._remembered.move_to_end(name)
        if len(self._remembered) > _REMEMBERED_MAX:
            self._remembered.popitem(last=False)

    async def evaluate(self, question: Question, now: datetime) -> Verdict:
        """Asks the engine; raises `InvalidArgument` (FIELD_INVALID)."""
        if not self.engine.compiled and self.engine.size > _INLINE_LINES_MAX:
            return await asyncio.to_thread(self._ask, question, now)
        return self._ask(question, now)

    def _ask(self, question: Question, now: datetime) -> Verdict:
        try:
            answer = self.engine.decide(
                subject=question.subject,
                domain=question.domain,
                resource=question.resource,
                action=question.action,
                attributes=question.attributes,
                roles=question.roles,
                now=now,
            )
        except RequestError as error:
            violation = Violation(error.field, error.expected)
            raise InvalidArgument("FIELD_INVALID", str(error), violations=[violation]) from None
        return Verdict(answer.allowed, answer.rule_id, now, answer.valid_until)


class Decisions:
    """Decides. `open()` first; run `run()` as a task to follow what other servers import."""

    def __init__(
        self,
        database: Database,
        *,
        cache: DecisionCache | None,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
        poll_seconds: float = 1.0,
        held_roles: Callable[[str], tuple[str, ...]] = lambda subject: (),
    ) -> None:
        self._database = database
        self._cache = cache
        self._clock = clock
        self._poll_seconds = poll_seconds
        self.held_roles = held_roles
        self._snapshot: Snapshot | None = None
        self._problem = ""
        self._refreshing = asyncio.Lock()
        self._count = Counter(
            "aegis_policy_decisions_total",
            "Decisions, by effect and by where the answer came from.",
            ["effect", "source"],
            registry=registry,
        )
        self._revision = Gauge(
            "aegis_policy_revision", "The policy revision in use.", registry=registry
        )
        self._behind = Gauge(
            "aegis_policy_behind",
            "1 while the newest stored revision cannot be read or used.",
            registry=registry,
        )

    @property
    def snapshot(self) -> Snapshot:
        """The revision in use; RuntimeError before `open`."""
        if self._snapshot is None:
            raise RuntimeError("Decisions.open() was not called")
        return self._snapshot

    @property
    def problem(self) -> str:
        """Why the revision in use may not be the newest; empty when all is well."""
        return self._problem

    def roles_of(self, subject: str, domain: str) -> list[str]:
        """Returns the roles a subject has in a domain, inherited ones included, sorted."""
        return sorted(self.snapshot.engine.roles_of(subject, domain, self.held_roles(subject)))

    async def open(self) -> None:
        """Loads the newest revision; raises `Unavailable` when that cannot be read or used."""
        await self.refresh()

    async def run(self) -> None:
        """Follows the newest revision until cancelled; keeps the last good one when it cannot."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.refresh()
            except Unavailable as error:
                log.debug("the policy stays at revision %d: %s", self.snapshot.revision, error)

    async def decide(self, question: Question, *, current: bool = False) -> Decision:
        """Returns the decision.

        `current` first makes sure that no newer revision is stored, as a mutation must; raises
        `Unavailable` when that cannot be known. Raises `InvalidArgument` (FIELD_INVALID) for a
        question that is not canonical.
        """
        return (await self.decide_all([question], current=current))[0]

    async def decide_all(
        self, questions: Sequence[Question], *, current: bool = False
    ) -> list[Decision]:
        """As `decide`, for many questions against one revision, in their order."""
        if current:
            await self.refresh()
        snapshot, now = self.snapshot, self._clock()
        questions = [self._with_roles(question) for question in questions]
        names = [snapshot.name_of(question) for question in questions]
        known: dict[str, tuple[Verdict, Source]] = {}
        for name in filter(None, names):
            if (remembered := snapshot.recall(name, now)) is not None:
                known[name] = remembered, "memory"
        await self._ask_redis(snapshot, names, known, now)
        decisions = []
        for index, (name, question) in enumerate(zip(names, questions, strict=True)):
            if name in known:
                verdict, source = known[name]
            else:
                verdict, source = await self._evaluate(snapshot, question, name, now), "engine"
                if name:
                    known[name] = verdict, source
                if index % 16 == 15:
                    await asyncio.sleep(0)  # a long batch lets others have a turn
            decisions.append(self._decision(snapshot, verdict, source))
        return decisions

    def _with_roles(self, question: Question) -> Question:
        held = self.held_roles(question.subject)
        return replace(question, roles=held) if held else question

    async def _ask_redis(
        self,
        snapshot: Snapshot,
        names: Sequence[str],
        known: dict[str, tuple[Verdict, Source]],
        now: datetime,
    ) -> None:
        missing = [name for name in dict.fromkeys(names) if name and name not in known]
        if self._cache is None or not missing:
            return
        for name, verdict in (await self._cache.get(missing)).items():
            if verdict.good_at(now):
                snapshot.remember(name, verdict)
                known[name] = (verdict, "redis")

    async def _evaluate(
        self, snapshot: Snapshot, question: Question, name: str, now: datetime
    ) -> Verdict:
        verdict = await snapshot.evaluate(question, now)
        if name:
            snapshot.remember(name, verdict)
            if self._cache is not None:
                self._cache.put(name, verdict)
        return verdict

    def _decision(self, snapshot: Snapshot, verdict: Verdict, source: Source) -> Decision:
        self._count.labels("allow" if verdict.allowed else "deny", source).inc()
        return Decision(
            allowed=verdict.allowed,
            rule_id=verdict.rule_id,
            revision=snapshot.revision,
            decision_id=str(uuid.uuid4()),
            valid_until=verdict.valid_until,
            source=source,
        )

    def adopt(self, snapshot: Snapshot) -> None:
        """Uses a revision this process has just stored, without waiting for the next look."""
        if self._snapshot is None or snapshot.revision > self._snapshot.revision:
            self._use(snapshot)

    async def refresh(self) -> None:
        """Makes sure the newest stored revision is in use; raises `Unavailable` when it is not."""
        try:
            async with self._refreshing, asyncio.timeout(_READ_SECONDS):
                await self._catch_up()
        except (AegisError, TimeoutError) as error:
            self._is_behind(f"the database cannot be read: {error}")
            raise Unavailable(
                "DATABASE_UNAVAILABLE", "the newest policy revision cannot be read"
            ) from error
        except (StoredPolicyBroken, PolicyError) as error:
            # Dropping the lines that do not parse could drop a deny: nothing of it is used.
            self._is_behind(f"the newest stored revision cannot be used: {error}")
            raise Unavailable(
                "POLICY_UNUSABLE", "the newest policy revision cannot be used"
            ) from error
        self._problem = ""
        self._behind.set(0)

    async def _catch_up(self) -> None:
        async with self._database.transaction() as connection:
            head = await store.head(connection)
            mine = self._snapshot
            # Also another digest under the same number is another policy: a restored database.
            if mine is not None and (mine.revision, mine.digest) == head:
                return
            stored = await store.read_back(connection, head.revision)
        if stored is None or stored[0].digest != head.digest:
            raise StoredPolicyBroken(f"revision {head.revision} is not what the head says")
        engine = await asyncio.to_thread(Engine.from_csv, to_csv(stored[1]))
        self._use(Snapshot(head.revision, head.digest, engine))

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._revision.set(snapshot.revision)
        log.info("policy revision %d is in use", snapshot.revision)

    def _is_behind(self, problem: str) -> None:
        if not self._problem:
            log.error("the policy may be behind: %s", problem)
        self._problem = problem
        self._behind.set(1)
