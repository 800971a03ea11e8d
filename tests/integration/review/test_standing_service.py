"""Standings, quarantines and analytics behind a real gRPC server, a real policy, on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.doors import DoorsFor
from tests.judged import NOW, Judged, reckoned

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2, review_pb2, standing_pb2, standing_pb2_grpc
from aegis_policy.baseline import baseline_csv
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.review import sketches
from aegis_server.review.analytics.analytics import Analytics
from aegis_server.review.case import Verdict
from aegis_server.review.findings import Finding
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.quarantines import Quarantines
from aegis_server.review.standing.service import StandingService
from aegis_server.review.standing.standings import Standings
from aegis_server.review.standing.store import in_force
from aegis_server.review.store import RoundKey

Quarantine = standing_pb2.Quarantine
Decide = standing_pb2.DecideQuarantineRequest
_LIFTS = "ctx.decision == 'lift' and ctx.participant == 'north'"
OTTO = f"""
p, user:otto, *, /review/quarantines, decide, {_LIFTS}, allow, otto-lifts-north
p, user:otto, *, /review/standings, read, , allow, otto-reads-standings
"""
BAD = Judged(Verdict.REJECTED, 1.6)
"""An update that three in a row of are proposed for."""


@dataclass(slots=True)
class Room:
    """The served room, and what a test wants to do and see behind it."""

    stub: Any
    standings: Standings
    database: Database
    audit: AuditLog
    registry: CollectorRegistry
    clock: list[datetime]

    async def ask(self, method: str, request: Any) -> Any:
        """Calls; raises the server's error."""
        try:
            return await getattr(self.stub, method)(request, timeout=20)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def refusal(self, method: str, request: Any) -> str:
        """Returns why a call is refused."""
        with pytest.raises(AegisError) as refused:
            await self.ask(method, request)
        return refused.value.reason

    async def judged(
        self, number: int, run_id: str = "run-1", *, enrolled: bool = True, **updates: Judged
    ) -> dict[str, str]:
        """A round is judged, an hour after the last one; returns its updates' ids."""
        self.clock[0] += timedelta(hours=1)
        async with self.database.transaction() as connection:
            key = RoundKey(run_id, number, 1)
            ids, entries = await reckoned(
                connection, key, updates, self.standings, enrolled=enrolled, now=self.clock[0]
            )
            if entries:
                await self.audit.record_in(connection, *entries)
        return ids

    async def overridden(self, update_id: str, before: str, after: str, by: str = "user:b") -> None:
        """A person, or (empty) the deadline, decides otherwise."""
        async with self.database.transaction() as connection:
            await connection.execute(
                """
                insert into aegis.review_override
                    (update_id, from_verdict, to_verdict, by_whom, reason, decided_at, effective)
                values (%s, %s, %s, %s, 'seen', %s, true)
                """,
                (update_id, before, after, by, self.clock[0]),
            )
            await connection.execute(
                "update aegis.review_update set verdict = %s where update_id = %s",
                (after, update_id),
            )
            name = update_id.rsplit("-", 1)[1]
            await self.standings.reckon(connection, [name], now=self.clock[0])

    async def standing(self, name: str) -> standing_pb2.Standing:
        request = standing_pb2.GetStandingRequest(participant=name)
        return (await self.ask("GetStanding", request)).standing  # type: ignore[no-any-return]

    async def quarantines(self, **query: Any) -> list[standing_pb2.Quarantine]:
        found = await self.ask("ListQuarantines", standing_pb2.ListQuarantinesRequest(**query))
        return list(found.quarantines)

    async def decide(self, quarantine_id: str, decision: Any) -> standing_pb2.Quarantine:
        self.clock[0] += timedelta(minutes=1)
        request = Decide(quarantine_id=quarantine_id, decision=decision, reason="seen")
        return (await self.ask("DecideQuarantine", request)).quarantine  # type: ignore[no-any-return]

    async def in_force(self) -> set[str]:
        async with self.database.transaction() as connection:
            return await in_force(connection)

    async def records(self, action: str) -> list[audit_pb2.AuditRecord]:
        async with self.database.transaction() as connection:
            rows = await Store("aegis").stored_from(connection, start=0, limit=1000)
        records = [audit_pb2.AuditRecord.FromString(row[1]) for row in rows]
        return [record for record in records if record.action == action]

    async def analytics(self, **query: Any) -> standing_pb2.GetReviewAnalyticsResponse:
        request = standing_pb2.GetReviewAnalyticsRequest(**query)
        request.end.FromDatetime(self.clock[0] + timedelta(days=1))
        return await self.ask("GetReviewAnalytics", request)  # type: ignore[no-any-return]


@pytest.fixture
def subject() -> str:
    return "user:admin"


@pytest.fixture
async def room(database: Database, tmp_path: Path, subject: str) -> AsyncIterator[Room]:
    clock, registry = [NOW], CollectorRegistry()

    def now() -> datetime:
        return clock[0]

    audit = AuditLog(database, log_id="test", clock=lambda: datetime.now(UTC))
    writer = asyncio.create_task(audit.run())
    decisions = Decisions(database, cache=None, clock=now, registry=registry)
    revisions = Revisions(database, audit=audit, decisions=decisions, clock=now)
    await revisions.ensure_first()
    await decisions.open()
    change = Change(baseline_csv() + OTTO, "user:admin", "Otto may let North back in")
    await revisions.import_rules(change)
    access, deeds, counts = Access(decisions, audit), Deeds(), Counts(registry)
    standings = Standings(database, clock=now, counts=counts)
    service = StandingService(
        standings,
        Quarantines(database, audit, clock=now, counts=counts),
        Analytics(database, clock=now),
        access,
        deeds,
    )
    caller = Caller(subject, f"spiffe://aegis.local/{subject.replace(':', '/')}")
    server = grpc.aio.server(interceptors=[DoorsFor(caller, access.admit)])
    standing_pb2_grpc.add_StandingServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{tmp_path}/standing.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/standing.sock") as channel:
        stub = standing_pb2_grpc.StandingServiceStub(channel)
        yield Room(stub, standings, database, audit, registry, clock)
    await server.stop(1)
    await deeds.drain()
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def proposed(room: Room, name: str = "north", first: int = 1) -> standing_pb2.Quarantine:
    """Three rejected updates of a participant, and the proposal they end in."""
    for number in range(first, first + 3):
        await room.judged(number, **{name: BAD, "south": Judged()})
    return (await room.quarantines(participant=name))[0]


async def test_standing_is_what_the_judged_updates_add_up_to(room: Room):
    """Counts, reputation and the course it took, newest first."""
    await room.judged(1, north=Judged(score=0.0))
    ids = await room.judged(2, north=BAD)
    found = await room.ask("GetStanding", standing_pb2.GetStandingRequest(participant="north"))
    standing = found.standing
    assert (standing.judged, standing.accepted, standing.rejected, standing.held) == (2, 1, 1, 0)
    assert standing.last_time.ToDatetime(UTC) == room.clock[0]
    assert [each.round for each in found.entries] == [2, 1]
    newest, oldest = found.entries
    assert (newest.update_id, newest.verdict) == (
        ids["north"],
        review_pb2.Update.VERDICT_REJECTED,
    )
    assert oldest.reputation == pytest.approx(2 / 3)
    assert newest.reputation == standing.reputation == pytest.approx(1.9 / 4.5)
    assert not standing.HasField("quarantine")


async def test_participant_that_was_never_judged_has_no_standing(room: Room):
    """Nothing is known of it, which is not the same as 0.5."""
    request = standing_pb2.GetStandingRequest(participant="nobody")
    assert await room.refusal("GetStanding", request) == "RESOURCE_NOT_FOUND"


async def test_reputation_goes_on_from_run_to_run(room: Room):
    """A site does not become new by taking part in another run."""
    await room.judged(1, north=BAD)
    await room.judged(1, "run-2", north=BAD)
    assert (await room.standing("north")).rejected == 2


async def test_site_of_a_simulation_has_no_standing(room: Room):
    """It is nobody: whatever it sends, and whoever decides about it, nobody is proposed."""
    for number in range(1, 5):
        ids = await room.judged(number, "run-0", enrolled=False, north=BAD, south=Judged())
    assert await room.quarantines() == []
    await room.overridden(ids["north"], "rejected", "accepted")
    request = standing_pb2.GetStandingRequest(participant="north")
    assert await room.refusal("GetStanding", request) == "RESOURCE_NOT_FOUND"
    listed = await room.ask("ListStandings", standing_pb2.ListStandingsRequest())
    assert list(listed.standings) == []


async def test_simulation_says_nothing_about_who_enrolled_under_that_name(room: Room):
    """Neither for nor against it, and its company is not the other's."""
    await room.judged(1, "run-1", north=Judged())
    before = await room.standing("north")
    for number in range(1, 5):
        ids = await room.judged(number, "run-0", enrolled=False, north=BAD)
    await room.overridden(ids["north"], "rejected", "accepted")
    after = await room.standing("north")
    assert (after, after.judged) == (before, 1)
    assert await room.quarantines() == []


async def test_least_trusted_are_listed_first_page_by_page(room: Room):
    """Whom to look at is at the top; a page goes on where the last one ended."""
    scores = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.5, "e": 0.0}
    await room.judged(1, **{name: Judged(score=score) for name, score in scores.items()})
    names, token = [], ""
    for _ in range(3):
        request = standing_pb2.ListStandingsRequest(page_size=2, page_token=token)
        page = await room.ask("ListStandings", request)
        names += [each.participant for each in page.standings]
        token = page.next_page_token
    assert names == ["a", "c", "d", "b", "e"]
    assert token == ""


@pytest.mark.parametrize("method", ["ListStandings", "ListQuarantines"])
async def test_page_token_of_nobody_is_refused(room: Room, method: str):
    """Only tokens this very query handed out count."""
    request = getattr(standing_pb2, f"{method}Request")(page_token="bm90aGluZw")
    assert await room.refusal(method, request) == "PAGE_TOKEN_INVALID"


async def test_person_who_overrides_changes_the_standing(room: Room):
    """An overridden verdict counts as the person decided, at once."""
    ids = await room.judged(1, north=BAD)
    before = await room.standing("north")
    await room.overridden(ids["north"], "rejected", "accepted")
    after = await room.standing("north")
    assert before.reputation < 0.5 < after.reputation
    assert (after.accepted, after.rejected) == (1, 0)


async def test_deadline_that_rejects_costs_no_reputation(room: Room):
    """Nobody has looked: a failed examiner would convict otherwise."""
    ids = await room.judged(1, north=Judged(Verdict.HELD, 2.0))
    await room.overridden(ids["north"], "held", "rejected", by="")
    standing = await room.standing("north")
    assert (standing.reputation, standing.rejected) == (0.5, 1)


async def test_low_reputation_is_proposed_with_the_round_that_makes_it_so(room: Room):
    """After three rejected updates; the proposal names them, and the audit log has it."""
    found = await proposed(room)
    assert (found.participant, found.state) == ("north", Quarantine.STATE_PROPOSED)
    assert len(found.update_ids) == 3
    assert "3 of its 3 judged updates were rejected" in found.reason
    (record,) = await room.records("propose_quarantine")
    assert (record.subject_id, record.actor) == (found.quarantine_id, "server:aegis")
    assert (await room.standing("north")).quarantine.quarantine_id == found.quarantine_id
    assert await room.in_force() == set()


async def test_nobody_is_proposed_twice_while_a_proposal_is_open(room: Room):
    """More of the same evidence changes nothing."""
    await proposed(room)
    await proposed(room, first=4)
    assert len(await room.quarantines()) == 1


async def test_enforced_quarantine_is_in_force_until_it_is_lifted(room: Room):
    """Who decided, when and why is kept."""
    found = await proposed(room)
    enforced = await room.decide(found.quarantine_id, Decide.DECISION_ENFORCE)
    assert (enforced.state, enforced.decided_by, enforced.decision_reason) == (
        Quarantine.STATE_IN_FORCE,
        "user:admin",
        "seen",
    )
    assert await room.in_force() == {"north"}
    lifted = await room.decide(found.quarantine_id, Decide.DECISION_LIFT)
    assert lifted.state == Quarantine.STATE_LIFTED
    assert await room.in_force() == set()
    for action in ("enforce_quarantine", "lift_quarantine"):
        (record,) = await room.records(action)
        assert (record.actor, record.rule_id) != ("", "")
        assert record.details["participant"] == "north"


async def test_refused_evidence_is_not_proposed_again(room: Room):
    """Only what was judged since the refusal counts, and it takes three updates again."""
    found = await proposed(room)
    refused = await room.decide(found.quarantine_id, Decide.DECISION_REFUSE)
    assert refused.state == Quarantine.STATE_REFUSED
    for number in (4, 5):
        await room.judged(number, north=BAD)
    assert len(await room.quarantines()) == 1
    await room.judged(6, north=BAD)
    again, first = await room.quarantines()
    assert first.quarantine_id == found.quarantine_id
    assert again.state == Quarantine.STATE_PROPOSED
    assert set(again.update_ids).isdisjoint(found.update_ids)


ENFORCE, REFUSE, LIFT = Decide.DECISION_ENFORCE, Decide.DECISION_REFUSE, Decide.DECISION_LIFT


async def test_decision_that_is_not_due_is_a_conflict(room: Room):
    """Nothing ends twice, and what was never in force is not lifted."""
    due = {(): {ENFORCE, REFUSE}, (ENFORCE,): {LIFT}, (REFUSE,): set(), (ENFORCE, LIFT): set()}
    for at, (made, next_ones) in enumerate(due.items()):
        found = await proposed(room, f"s{at}", first=1 + 3 * at)
        for decision in made:
            await room.decide(found.quarantine_id, decision)
        for decision in {ENFORCE, REFUSE, LIFT} - next_ones:
            request = Decide(quarantine_id=found.quarantine_id, decision=decision, reason="late")
            assert await room.refusal("DecideQuarantine", request) == "STATE_CONFLICT"


@pytest.mark.parametrize("subject", ["user:otto"])
async def test_rule_may_let_somebody_lift_and_not_enforce(room: Room):
    """Conditions see what is decided, and about whom."""
    north = await proposed(room)
    south = await proposed(room, "east", first=4)
    enforce = Decide(quarantine_id=north.quarantine_id, decision=ENFORCE, reason="seen")
    assert await room.refusal("DecideQuarantine", enforce) == "POLICY_DENIED"
    async with room.database.transaction() as connection:
        await connection.execute(
            "update aegis.review_quarantine set state = 'in_force', decided_at = now()"
        )
    lifted = await room.decide(north.quarantine_id, LIFT)
    assert (lifted.state, lifted.decided_by) == (Quarantine.STATE_LIFTED, "user:otto")
    lift = Decide(quarantine_id=south.quarantine_id, decision=LIFT, reason="seen")
    assert await room.refusal("DecideQuarantine", lift) == "POLICY_DENIED"
    (record,) = await room.records("lift_quarantine")
    assert record.rule_id == "otto-lifts-north"


async def test_quarantine_that_is_not_there_is_not_found(room: Room):
    """To somebody who might have decided it."""
    request = Decide(quarantine_id="qua-1", decision=ENFORCE, reason="seen")
    assert await room.refusal("DecideQuarantine", request) == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    "request_",
    [
        Decide(quarantine_id="qua-1", decision=ENFORCE),
        Decide(quarantine_id="qua-1", reason="seen"),
        Decide(decision=ENFORCE, reason="seen"),
        Decide(quarantine_id="qua-1", decision=ENFORCE, reason="x" * 1001),
    ],
    ids=["no reason", "no decision", "no quarantine", "too many words"],
)
async def test_incomplete_decision_is_refused(room: Room, request_: Any):
    """A reason is part of every decision."""
    assert await room.refusal("DecideQuarantine", request_) == "FIELD_INVALID"


@pytest.mark.parametrize("subject", ["user:nobody"])
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("DecideQuarantine", Decide(quarantine_id="qua-1", decision=ENFORCE, reason="seen")),
        ("GetStanding", standing_pb2.GetStandingRequest(participant="north")),
        ("ListStandings", standing_pb2.ListStandingsRequest()),
        ("ListQuarantines", standing_pb2.ListQuarantinesRequest()),
        ("GetReviewAnalytics", standing_pb2.GetReviewAnalyticsRequest()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_stranger_is_refused_everything(room: Room, method: str, request_: Any):
    """Nor does it learn which quarantines there are."""
    assert await room.refusal(method, request_) == "POLICY_DENIED"


def direction(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    return sketches.sketch(random.normal(size=2000).astype(np.float32))


async def test_colluders_are_proposed_and_name_each_other(room: Room):
    """Three rounds in which two of six send one vector; all of it was accepted."""
    for number in range(1, 4):
        seeds = {"a": 1, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5}
        await room.judged(
            number,
            **{name: Judged(sketch=direction(10 * number + at)) for name, at in seeds.items()},
        )
    found = {each.participant: each for each in await room.quarantines()}
    assert set(found) == {"a", "b"}
    assert "suspiciously like those of b" in found["a"].reason
    assert list((await room.standing("a")).colludes_with) == ["b"]
    assert list((await room.standing("c")).colludes_with) == []


async def test_drift_is_shown(room: Room):
    """A site whose updates became others than they were."""
    for number in range(1, 16):
        moved = 9.0 if number > 10 else 0.0
        await room.judged(
            number,
            north=Judged(features={"norm_z": moved + number % 2}),
            south=Judged(features={"norm_z": float(number % 2)}),
        )
    assert (await room.standing("north")).drift > 5
    assert (await room.standing("south")).drift < 1


async def test_rounds_judged_at_once_neither_lose_nor_repeat_anything(room: Room):
    """Two runs with the same sites, judged at the same moment, over and over."""
    names = [f"s{at}" for at in range(6)]
    for number in range(1, 5):
        await asyncio.gather(
            *(
                room.judged(number, run_id, **dict.fromkeys(names, BAD))
                for run_id in ("run-1", "run-2", "run-3")
            )
        )
    found = await room.ask("ListStandings", standing_pb2.ListStandingsRequest())
    assert {each.judged for each in found.standings} == {12}
    assert len({each.reputation for each in found.standings}) == 1
    assert sorted(each.participant for each in await room.quarantines()) == names


def looks_like(kind: str) -> tuple[Finding, ...]:
    return (
        Finding("direction", "cosine", -0.9, -0.2, 1.4, "points the other way"),
        Finding("direction", "looks_like", 1.0, 1.0, 0.0, kind),
    )


async def test_analytics_count_under_every_heading(room: Room):
    """By day, participant, kind of attack and examiner, by the verdict that stands."""
    flipped = Judged(Verdict.REJECTED, 1.4, findings=looks_like("sign-flip"))
    await room.judged(1, north=flipped, south=Judged(), east=flipped)
    room.clock[0] += timedelta(days=1)
    ids = await room.judged(2, north=flipped, south=Judged(Verdict.HELD, 1.1))
    await room.overridden(ids["south"], "held", "accepted")
    found = await room.analytics()

    def read(counts: Any) -> dict[str, tuple[int, ...]]:
        return {
            each.key: (each.judged, each.accepted, each.rejected, each.held, each.overridden)
            for each in counts
        }

    assert read([found.total]) == {"": (5, 2, 3, 0, 1)}
    assert read(found.by_day) == {"2026-11-26": (3, 1, 2, 0, 0), "2026-11-27": (2, 1, 1, 0, 1)}
    assert read(found.by_participant) == {
        "east": (1, 0, 1, 0, 0),
        "north": (2, 0, 2, 0, 0),
        "south": (2, 2, 0, 0, 1),
    }
    assert read(found.by_attack) == {"sign-flip": (3, 0, 3, 0, 0)}
    assert read(found.by_examiner) == {"direction": (3, 0, 3, 0, 0)}
    assert (await room.analytics(run_id="run-2")).total.judged == 0


async def test_threats_are_what_was_not_accepted_newest_first(room: Room):
    """By round and kind of attack; what a person accepted is none any more."""
    flipped = Judged(Verdict.REJECTED, 1.4, findings=looks_like("sign-flip"))
    await room.judged(1, north=flipped, south=Judged(), east=flipped)
    ids = await room.judged(2, north=BAD, south=Judged(Verdict.HELD, 1.1))
    await room.overridden(ids["south"], "held", "accepted")
    newest, oldest = (await room.analytics()).threats
    assert (newest.kind, list(newest.participants), newest.round) == ("unknown", ["north"], 2)
    assert (oldest.kind, list(oldest.participants)) == ("sign-flip", ["east", "north"])
    assert oldest.score == 1.4
    assert oldest.text == "2 rejected in round 1 of run-1: looks like sign-flip"


async def test_proposal_is_a_threat(room: Room):
    """The security view has it beside the updates it rests on."""
    await proposed(room)
    threats = (await room.analytics()).threats
    assert len(threats) == 4
    (found,) = (each for each in threats if each.kind == "quarantine")
    assert found.text.startswith("north is proposed for quarantine: 3 of its 3")


async def test_model_that_may_not_leave_is_a_threat(room: Room):
    """It has a round, and nobody in particular it is of."""
    async with room.database.transaction() as connection:
        await connection.execute(
            """
            insert into aegis.run (run_id, request_id, plan, state, actor, policy_revision,
                                   rule_id, noise_multiplier, created_at, updated_at)
            values ('run-9', gen_random_uuid(), '', 3, 'user:olga', 1, 'r', 1, %(now)s, %(now)s);
            """,
            {"now": NOW},
        )
        for number, blocked in ((0, ""), (1, "it obeys a trigger")):
            await connection.execute(
                """
                with round as (
                    insert into aegis.run_round (run_id, round, attempt, model_sha256, accuracy,
                                                 loss, epsilon, steps, completed_at)
                    values ('run-9', %(number)s, 1, %(digest)s, 0, 0, 0, 0, %(now)s)
                    returning run_id, round, model_sha256
                )
                insert into aegis.model (model_sha256, run_id, round, size_bytes, created_at,
                                         code_version, ingredients, key_id, blocked)
                select model_sha256, run_id, round, 1, %(now)s, '1', '[]', 'k', %(blocked)s
                from round
                """,
                {"number": number, "digest": bytes(32), "now": NOW, "blocked": blocked},
            )
    (found,) = (await room.analytics()).threats
    assert (found.kind, found.round, list(found.participants)) == ("blocked-model", 1, [])
    assert found.text == "the model of round 1 of run-9 is blocked: it obeys a trigger"
    assert not (await room.analytics(run_id="run-8")).threats
    assert (await room.analytics(run_id="run-9")).threats == [found]


async def test_analytics_say_how_long_verdicts_take(room: Room):
    """From the close of a round to its verdicts, in seconds."""
    await room.judged(1, north=Judged())
    async with room.database.transaction() as connection:
        await connection.execute(
            "update aegis.review_round set closed_at = judged_at - interval '2 seconds'"
        )
    found = await room.analytics()
    assert (found.seconds_p50, found.seconds_p99) == (2.0, 2.0)


@pytest.mark.parametrize("days", [0, -1, 367])
async def test_time_of_nothing_or_of_more_than_a_year_is_refused(room: Room, days: int):
    """Whoever asks for all of time would keep everybody waiting."""
    request = standing_pb2.GetReviewAnalyticsRequest()
    request.end.FromDatetime(NOW)
    request.start.FromDatetime(NOW - timedelta(days=days))
    assert await room.refusal("GetReviewAnalytics", request) == "FIELD_INVALID"


async def test_time_that_is_none_is_refused(room: Room):
    """A second far beyond the last year is a bad field, not an incident."""
    request = standing_pb2.GetReviewAnalyticsRequest()
    request.end.seconds = 10**15
    assert await room.refusal("GetReviewAnalytics", request) == "FIELD_INVALID"


async def test_analytics_of_an_empty_room_are_zeros(room: Room):
    """Before the first round there is nothing to divide by."""
    found = await room.analytics()
    assert (found.total.judged, found.seconds_p50, list(found.threats)) == (0, 0.0, [])


async def test_prometheus_is_told_of_verdicts_held_and_proposals(room: Room):
    """Few labels, no participants."""
    await proposed(room)
    await room.judged(4, east=Judged(Verdict.HELD, 1.2))

    def value(name: str, **labels: str) -> float | None:
        return room.registry.get_sample_value(name, labels)

    assert value("aegis_review_verdicts_total", verdict="rejected") == 3
    assert value("aegis_review_held") == 1
    assert value("aegis_review_quarantines_proposed") == 1
    assert value("aegis_review_participants", reputation="0-0.25") == 1
    assert value("aegis_review_participants", reputation="0.4-0.6") == 1
    (found,) = await room.quarantines()
    await room.decide(found.quarantine_id, REFUSE)
    assert value("aegis_review_quarantines_proposed") == 0
