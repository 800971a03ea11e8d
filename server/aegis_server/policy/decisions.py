"""Decisions by the newest rules this process knows, from memory, Redis or the engine.

A snapshot is one revision: its engine and the answers it gave. It never changes; new rules are
built beside it and one reference is swapped. Every decision takes the snapshot once and uses it
for key, memory and evaluation alike, so an answer can never mix two revisions.

The compiled engine answers in microseconds, so nothing is in front of it but memory. Redis is asked
where a round trip is cheaper than an evaluation: for an admin's own model.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.errors import AegisError, Unavailable
from aegis.serving.database import Database
from aegis_policy import PolicyError
from aegis_server.policy import store
from aegis_server.policy.cache import DecisionCache, Verdict
from aegis_server.policy.loading import load
from aegis_server.policy.question import Question
from aegis_server.policy.snapshot import Key, Snapshot
from aegis_server.policy.store import StoredPolicyBroken

__all__ = ["BEST_EFFORT", "Consistency", "Decision", "Decisions", "Question", "Snapshot", "Source"]

log = logging.getLogger(__name__)

Source: TypeAlias = Literal["engine", "memory", "redis"]
# "auto": where it is cheaper than an evaluation; "redis": always, which is for measurements.
CacheUse: TypeAlias = Literal["auto", "redis"]
_SOURCES: tuple[Source, ...] = ("engine", "memory", "redis")
_READ_SECONDS = 10.0
_CATCH_UP_SECONDS = 0.2
# Decisions of a batch before others have a turn: about a millisecond.
_TURN = 128


@dataclass(frozen=True, slots=True)
class Consistency:
    """How new the rules must be that decide; by default as new as they are known here."""

    at_least: int = 0
    current: bool = False


BEST_EFFORT = Consistency()


class Decision(NamedTuple):
    """An answer with its grounds. `rule_id` is empty when no rule allowed."""

    allowed: bool
    rule_id: str
    revision: int
    decision_id: str
    valid_until: datetime | None
    source: Source
    at: datetime
    microseconds: int


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
        cache_use: CacheUse = "auto",
        next_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._database = database
        self._cache = cache
        self._clock = clock
        self._poll_seconds = poll_seconds
        self.held_roles = held_roles
        self._snapshot: Snapshot | None = None
        self._problem = ""
        self._refreshing = asyncio.Lock()
        self._flights: dict[tuple[int, Key], asyncio.Task[tuple[Verdict, Source]]] = {}
        self._cache_use = cache_use
        self._next_id = next_id
        count = Counter(
            "aegis_policy_decisions_total",
            "Decisions, by effect and by where the answer came from.",
            ["effect", "source"],
            registry=registry,
        )
        # Looking a label up costs more than a decision.
        self._count = {
            (allowed, source): count.labels("allow" if allowed else "deny", source)
            for allowed in (True, False)
            for source in _SOURCES
        }
        self._revision = Gauge(
            "aegis_policy_revision",
            "The policy revision in use; of several workers the oldest.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._behind = Gauge(
            "aegis_policy_behind",
            "1 while the newest stored revision cannot be read or used.",
            registry=registry,
            multiprocess_mode="livemax",
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

    async def decide(
        self, question: Question, *, consistency: Consistency = BEST_EFFORT, current: bool = False
    ) -> Decision:
        """Returns the decision.

        `current` first makes sure that no newer revision is stored, as a mutation must; raises
        `Unavailable` when that, or what `consistency` asks for, cannot be known. Raises
        `InvalidArgument` (FIELD_INVALID) for a question that is not canonical.
        """
        if current or consistency is not BEST_EFFORT:
            await self._catch_up_to(consistency, current=current)
        return self._at_once(question) or await self._later(question)

    async def decide_all(
        self,
        questions: Sequence[Question | AegisError],
        *,
        consistency: Consistency = BEST_EFFORT,
    ) -> list[Decision | AegisError]:
        """As `decide`, for many questions against one revision, in their order.

        What is wrong with one of them stands in its place and does not hinder the others.
        """
        await self._catch_up_to(consistency)
        snapshot = self.snapshot
        answers: list[Decision | AegisError | None] = []
        for question in questions:
            try:
                ready = isinstance(question, AegisError)
                answers.append(question if ready else self._at_once(question, snapshot))  # type: ignore[arg-type]
            except AegisError as error:
                answers.append(error)
            if len(answers) % _TURN == 0:
                await asyncio.sleep(0)  # a long batch lets others have a turn
        late = [index for index, answer in enumerate(answers) if answer is None]
        found = await asyncio.gather(
            *(self._later(questions[index], snapshot) for index in late),  # type: ignore[arg-type]
            return_exceptions=True,
        )
        for index, answer in zip(late, found, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, AegisError):
                raise answer
            answers[index] = answer
        return answers  # type: ignore[return-value]

    def _at_once(self, question: Question, snapshot: Snapshot | None = None) -> Decision | None:
        """Returns the decision where nothing has to be waited for."""
        began = time.perf_counter()
        snapshot, now = snapshot or self.snapshot, self._clock()
        question = self._with_roles(question)
        key = snapshot.key_of(question)
        if key is not None and (verdict := snapshot.recall(key, now)) is not None:
            return self._decision(snapshot, verdict, "memory", now, began)
        if not snapshot.engine.compiled or (self._cache_use == "redis" and key is not None):
            return None
        verdict = snapshot.ask(question, now)
        if key is not None:
            snapshot.remember(key, verdict)
        return self._decision(snapshot, verdict, "engine", now, began)

    async def _later(self, question: Question, snapshot: Snapshot | None = None) -> Decision:
        """Returns the decision; whoever asks the same meanwhile waits for the same answer."""
        began = time.perf_counter()
        snapshot, question = snapshot or self.snapshot, self._with_roles(question)
        key = snapshot.key_of(question)
        if key is None:
            now = self._clock()
            verdict = await snapshot.evaluate(question, now)
            return self._decision(snapshot, verdict, "engine", now, began)
        flight = self._flights.get((id(snapshot), key))
        if flight is None:
            flight = asyncio.create_task(self._looked_up(snapshot, question, key))
            self._flights[id(snapshot), key] = flight
            flight.add_done_callback(lambda _: self._flights.pop((id(snapshot), key), None))
        # One that leaves does not take the answer with it.
        verdict, source = await asyncio.shield(flight)
        return self._decision(snapshot, verdict, source, self._clock(), began)

    async def _looked_up(
        self, snapshot: Snapshot, question: Question, key: Key
    ) -> tuple[Verdict, Source]:
        now, name = self._clock(), ""
        if self._cache is not None and self._is_worth(self._cache, snapshot):
            name = snapshot.name_of(question)
            verdict = (await self._cache.get([name])).get(name)
            if verdict is not None and verdict.good_at(now):
                snapshot.remember(key, verdict)
                return verdict, "redis"
        verdict = await snapshot.evaluate(question, now)
        snapshot.remember(key, verdict)
        if self._cache is not None and name:
            self._cache.put(name, verdict)
        return verdict, "engine"

    def _is_worth(self, cache: DecisionCache, snapshot: Snapshot) -> bool:
        """Says whether a round trip to Redis costs less than an evaluation."""
        return self._cache_use == "redis" or snapshot.cost_seconds > cache.cost_seconds

    async def _catch_up_to(self, consistency: Consistency, *, current: bool = False) -> None:
        if current or consistency.current:
            await self.refresh()
        if consistency.at_least > self.snapshot.revision:
            await self._reach(consistency.at_least)

    async def _reach(self, revision: int) -> None:
        """Waits until a revision is known here, for as long as an edit takes to come round.

        Raises `Unavailable` (REVISION_AHEAD): an older answer is never given instead.
        """
        end = time.monotonic() + _CATCH_UP_SECONDS
        while self.snapshot.revision < revision:
            await self.refresh()
            if self.snapshot.revision >= revision:
                return
            if time.monotonic() >= end:
                raise Unavailable(
                    "REVISION_AHEAD",
                    f"revision {revision} is asked for, {self.snapshot.revision} is the newest",
                    wanted=revision,
                    revision=self.snapshot.revision,
                )
            await asyncio.sleep(_CATCH_UP_SECONDS / 4)

    def _with_roles(self, question: Question) -> Question:
        held = self.held_roles(question.subject)
        return question._replace(roles=held) if held else question

    def _decision(
        self, snapshot: Snapshot, verdict: Verdict, source: Source, now: datetime, began: float
    ) -> Decision:
        self._count[verdict.allowed, source].inc()
        return Decision(
            verdict.allowed,
            verdict.rule_id,
            snapshot.revision,
            self._next_id(),
            verdict.valid_until,
            source,
            now,
            int((time.perf_counter() - began) * 1e6),
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
            snapshot = await load(connection, head, mine)
        self._use(snapshot)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._revision.set(snapshot.revision)
        log.info("policy revision %d is in use", snapshot.revision)

    def _is_behind(self, problem: str) -> None:
        if not self._problem:
            log.error("the policy may be behind: %s", problem)
        self._problem = problem
        self._behind.set(1)
