"""The policy room on real Postgres: imports, revisions, and what every server then decides."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.integration.policy.rooms import ADMIN, Room, now

from aegis.errors import Aborted, InvalidArgument, NotFound, PermissionDenied, Unavailable
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_policy.baseline import baseline_csv
from aegis_server.policy.decisions import Question

RULES = (
    "p, role:admin, *, /**, *, , allow, admin-all\n"
    "g2, user:admin, role:admin\n"
    "p, user:ann, *, /training/runs, read, , allow, ann-reads\n"
)
WITHOUT_ANN = RULES.replace("ann-reads\n", "ann-reads\n", 1).rsplit("p, user:ann", 1)[0]
ANN_READS = Question("user:ann", "aegis", "/training/runs", "read")


async def records(database: Database) -> list[audit_pb2.AuditRecord]:
    async with database.transaction() as connection:
        rows = await Store("aegis").stored_from(connection, start=0, limit=100)
    return [audit_pb2.AuditRecord.FromString(row[1]) for row in rows]


async def test_fresh_installation_starts_with_the_baseline(server: Room):
    """Revision 1 is the baseline, once, however many servers start at the same time."""
    await asyncio.gather(*(Room(server.database).revisions.ensure_first() for _ in range(3)))
    revision, csv = await server.revisions.get(0)
    assert (revision.number, revision.actor) == (1, "server:aegis")
    assert "admin-may-everything" in csv
    assert csv.count("\n") == revision.rule_count
    changes = [r for r in await records(server.database) if r.subject_id == "policy/1"]
    assert [r.kind for r in changes] == [audit_pb2.AUDIT_KIND_POLICY_CHANGE]


async def test_import_is_in_force_at_once_and_recorded_with_its_rule(server: Room):
    """The importing server decides by the new rules when the call returns; the log tells who."""
    assert not (await server.decisions.decide(ANN_READS)).allowed
    assert await server.import_(RULES) == 2
    decision = await server.decisions.decide(ANN_READS)
    assert (decision.allowed, decision.rule_id, decision.revision) == (True, "ann-reads", 2)
    record = (await records(server.database))[-1]
    assert (record.kind, record.outcome, record.actor, record.rule_id) == (
        audit_pb2.AUDIT_KIND_POLICY_CHANGE,
        "imported",
        ADMIN,
        "admin-may-everything",
    )
    assert [beside.name for beside in record.attachments] == ["reason"]


async def test_every_revision_can_be_read_back_in_its_order(server: Room):
    """Each state of the rules stays readable after later imports, line for line."""
    texts = [RULES, WITHOUT_ANN, "p, user:zoe, *, /a, read, , deny, zoe-out\n" + RULES]
    for text in texts:
        await server.import_(text)
    for number, text in enumerate(texts, start=2):
        revision, csv = await server.revisions.get(number)
        assert (revision.number, csv) == (number, text)
    with pytest.raises(NotFound) as caught:
        await server.revisions.get(99)
    assert caught.value.reason == "RESOURCE_NOT_FOUND"


async def test_revisions_form_a_digest_chain(server: Room):
    """Each revision commits to the one before, so the same rules twice are two digests."""
    await server.import_(RULES)
    await server.import_(RULES)
    second, _ = await server.revisions.get(2)
    third, _ = await server.revisions.get(3)
    assert third.prev_digest == second.digest != third.digest


async def test_import_from_an_old_revision_is_a_conflict(server: Room):
    """A change made from a revision that is no longer current is refused, nothing is stored."""
    await server.import_(RULES, expected_revision=1)
    with pytest.raises(Aborted) as caught:
        await server.import_(WITHOUT_ANN, expected_revision=1)
    assert caught.value.reason == "REVISION_CONFLICT"
    assert caught.value.metadata == {"expected": "1", "current": "2"}
    assert (await server.revisions.get(0))[0].number == 2


async def test_of_concurrent_imports_from_one_revision_exactly_one_wins(server: Room):
    """Writers queue at the head row; all but the first find their revision gone."""
    results = await asyncio.gather(
        *(server.import_(RULES, expected_revision=1) for _ in range(5)), return_exceptions=True
    )
    assert [r for r in results if isinstance(r, int)] == [2]
    assert sum(isinstance(r, Aborted) for r in results) == 4


async def test_bad_rule_file_changes_nothing_names_every_line_and_is_recorded(server: Room):
    """POLICY_INVALID carries one violation a bad line; the attempt is in the audit log."""
    bad = RULES + "p, user:ann, *, /a, read, , Deny, typo\nq, x\n"
    with pytest.raises(InvalidArgument) as caught:
        await server.import_(bad)
    assert caught.value.reason == "POLICY_INVALID"
    assert [v.field for v in caught.value.violations] == ["line 4", "line 5"]
    assert (await server.revisions.get(0))[0].number == 1
    assert (await records(server.database))[-1].reason == "POLICY_INVALID"


async def test_a_thousand_faults_still_fit_into_an_error(server: Room):
    """Violations are cut to what HTTP/2 trailers carry, and the rest is counted."""
    with pytest.raises(InvalidArgument) as caught:
        await server.import_("nonsense, line\n" * 1000)
    assert caught.value.violations[-1].description.startswith("and ")
    assert caught.value.to_status().ByteSize() < 6000


async def test_validate_only_stores_nothing(server: Room):
    """A dry run answers with the revision that would follow and leaves no trace of it."""
    before = len(await records(server.database))
    assert await server.import_(RULES, validate_only=True) == 2
    assert (await server.revisions.get(0))[0].number == 1
    assert server.decisions.snapshot.revision == 1
    assert len(await records(server.database)) == before


async def test_validate_only_fails_where_the_real_import_would(server: Room):
    """A dry run refuses bad files and old revisions all the same."""
    with pytest.raises(InvalidArgument):
        await server.import_("nonsense", validate_only=True)
    with pytest.raises(Aborted):
        await server.import_(RULES, validate_only=True, expected_revision=7)


async def test_nobody_can_lock_himself_out(server: Room):
    """Rules under which their author could not write the policy any more are refused."""
    with pytest.raises(InvalidArgument) as caught:
        await server.import_("p, user:zoe, *, /**, *, , allow, zoe-all\n")
    assert caught.value.reason == "POLICY_INVALID"
    assert "user:admin could not write /policy" in caught.value.violations[0].description


async def test_import_is_decided_by_the_newest_rules(server: Room):
    """A server that has not yet seen that a writer lost the right does not let him write."""
    behind = Room(server.database)
    await behind.decisions.open()
    await server.import_(RULES + "p, user:zoe, *, /policy, write, , allow, zoe-writes\n")
    zoes = "p, user:zoe, *, /policy, write, , allow, zoe-writes\n"
    await server.import_(zoes, actor="user:zoe")
    assert behind.decisions.snapshot.revision == 1
    with pytest.raises(PermissionDenied):
        await behind.import_(RULES)


async def test_another_server_follows_an_import(server: Room):
    """A server that only polls decides by the new rules soon after another one's import."""
    other = Room(server.database)
    await other.decisions.open()
    following = asyncio.create_task(other.decisions.run())
    await server.import_(RULES)
    async with asyncio.timeout(5):
        while not (await other.decisions.decide(ANN_READS)).allowed:
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_current_decision_sees_an_import_before_any_poll(server: Room):
    """A mutation is never decided by rules that are no longer the newest."""
    other = Room(server.database)
    await other.decisions.open()
    await server.import_(RULES)
    assert not (await other.decisions.decide(ANN_READS)).allowed
    assert (await other.decisions.decide(ANN_READS, current=True)).allowed


async def test_last_good_revision_serves_while_postgres_is_away(server: Room):
    """Questions are still answered; what needs the newest revision is refused."""
    await server.import_(RULES)
    cut_off = Database("postgresql://nobody@/nothing?host=/nowhere", application="test")
    server.decisions._database = cut_off
    assert (await server.decisions.decide(ANN_READS)).allowed
    with pytest.raises(Unavailable):
        await server.decisions.decide(ANN_READS, current=True)
    assert server.decisions.problem


@pytest.mark.parametrize(
    "damage",
    [
        "delete from aegis.policy_rule where fields @> '{ann-reads}'",
        "update aegis.policy_rule set fields[6] = 'Deny' where fields @> '{ann-reads}'",
        "update aegis.policy_head set revision = 7",
    ],
)
async def test_stored_rules_that_changed_are_not_used_at_all(
    server: Room, database_url: str, damage: str
):
    """No damaged revision serves with some of its lines: the last good one stays, and says so."""
    await server.import_(RULES.replace("allow, ann", "deny, ann"))
    other = Room(server.database)
    await other.decisions.open()
    await server.import_(RULES)
    with psycopg.connect(database_url) as connection:
        connection.execute(damage)
    with pytest.raises(Unavailable) as caught:
        await other.decisions.decide(ANN_READS, current=True)
    assert caught.value.reason == "POLICY_UNUSABLE"
    decision = await other.decisions.decide(ANN_READS)
    assert (decision.allowed, decision.revision) == (False, 2)
    assert "cannot be used" in other.decisions.problem


async def test_stored_rules_this_program_cannot_parse_are_not_used(server: Room, database_url: str):
    """Lines with a right digest that do not parse here keep the last good revision serving."""
    from aegis_policy import Line
    from aegis_server.policy import store
    from aegis_server.policy.places import fresh, step

    lines = [Line("p", ("user:ann", "*", "/training/runs", "read", "later()", "deny", "new"))]
    async with server.database.transaction() as connection:
        head = await store.lock_head(connection)
        digest = store.chained_digest(head.digest, lines)
        revision = store.Revision(2, head.digest, digest, ADMIN, "newer", 1, now())
        before = await store.read_placed(connection, 1)
        assert before is not None
        await store.append(connection, revision, step(before.placed, fresh(lines)))
    with pytest.raises(Unavailable) as caught:
        await server.decisions.refresh()
    assert caught.value.reason == "POLICY_UNUSABLE"
    assert server.decisions.snapshot.revision == 1


async def test_server_role_cannot_rewrite_a_revision(server: Room):
    """The program's own database role may neither edit nor delete what was imported."""
    for statement in (
        "update aegis.policy_revision set actor = 'user:nobody'",
        "delete from aegis.policy_revision",
        "delete from aegis.policy_rule",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with server.database.transaction() as connection:
                await connection.execute(statement.encode())


async def test_batch_is_decided_against_one_revision(server: Room):
    """All answers of a batch carry the same revision, in the order of the questions."""
    await server.import_(RULES)
    questions = [ANN_READS._replace(subject=s) for s in ("user:ann", "user:bob", "user:ann")]
    decisions = await server.decisions.decide_all(questions)
    assert [d.allowed for d in decisions] == [True, False, True]
    assert {d.revision for d in decisions} == {2}
    assert len({d.decision_id for d in decisions}) == 3


async def test_same_question_is_answered_from_memory_and_an_import_forgets_it(server: Room):
    """Memory belongs to a revision: no answer survives a change of the rules."""
    await server.import_(RULES)
    sources = [(await server.decisions.decide(ANN_READS)).source for _ in range(2)]
    assert sources == ["engine", "memory"]
    await server.import_(WITHOUT_ANN)
    decision = await server.decisions.decide(ANN_READS)
    assert (decision.allowed, decision.source) == (False, "engine")


async def test_unknown_subjects_are_never_remembered(server: Room):
    """Strangers get their refusal without filling any memory."""
    for index in range(50):
        stranger = ANN_READS._replace(subject=f"user:stranger-{index}")
        assert not (await server.decisions.decide(stranger)).allowed
    assert len(server.decisions.snapshot._remembered) == 0


def test_baseline_is_what_the_repository_ships() -> None:
    """The packaged baseline is the file people edit."""
    assert "automation-outside-its-namespaces" in baseline_csv()
