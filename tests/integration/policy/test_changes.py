"""Single changes, rollback and adoption on real Postgres: what is refused, and what is written."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from tests.integration.policy.rooms import ADMIN, Room
from tests.integration.policy.test_policy_room import ANN_READS, RULES, records

from aegis.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aegis.serving.database import Database, migrate
from aegis_policy import Line, read_rules, to_csv
from aegis_policy.baseline import baseline_csv
from aegis_policy.models import DEFAULT_MODEL
from aegis_server.policy import revisions as revisions_module
from aegis_server.policy import store
from aegis_server.policy.changes import Create, Delete, LineChange, Replace, etag_of
from aegis_server.policy.places import STRIDE, Placed, fresh, step
from aegis_server.policy.wishes import Outcome, Wish

WISH = Wish(ADMIN, "a test")
ZOE = "p, user:zoe, *, /a, read, , allow, zoe-reads"
ANN_WRITES = "p, user:ann, *, /training/runs, write, , allow, ann-reads"


async def placed(room: Room, rule_id: str) -> tuple[int, str]:
    """Place and etag of a rule, as a listing shows them."""
    for place, line in (await room.revisions.read(0)).placed:
        if line.fields[-1] == rule_id:
            return place, etag_of(line)
    raise AssertionError(rule_id)


async def apply(room: Room, *changes: LineChange, wish: Wish = WISH) -> Outcome:
    return await room.revisions.apply(wish, changes)


async def rows(database: Database, number: int) -> tuple[int, int]:
    """How many lines a revision created and removed."""
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "select count(*) filter (where created_rev = %(n)s),"
            " count(*) filter (where deleted_rev = %(n)s) from aegis.policy_rule",
            {"n": number},
        )
        created, deleted = await cursor.fetchone()  # type: ignore[misc]
    return created, deleted


async def test_changes_of_one_request_become_one_revision(server: Room):
    """Creating, replacing and deleting together is one revision, in force when it returns."""
    await server.import_(RULES + "p, user:bob, *, /b, read, , allow, bob-reads\n")
    place, etag = await placed(server, "ann-reads")
    bob, bobs_etag = await placed(server, "bob-reads")
    outcome = await apply(
        server,
        Create(ZOE, before_place=place),
        Replace(place, etag, ANN_WRITES),
        Delete(bob, bobs_etag),
    )
    revision, csv = await server.revisions.get(0)
    assert outcome.revision == revision
    assert csv.splitlines() == [*RULES.splitlines()[:2], ZOE, ANN_WRITES]
    assert await rows(server.database, 3) == (2, 2)
    assert not (await server.decisions.decide(ANN_READS)).allowed
    record = (await records(server.database))[-1]
    assert (record.outcome, record.details["changes"]) == ("changed", "3")


async def test_created_line_without_a_place_comes_last(server: Room):
    """Zero puts it at the end, two of them in their order."""
    await server.import_(RULES)
    await apply(server, Create(ZOE), Create("g2, user:zoe, role:viewer"))
    _, csv = await server.revisions.get(0)
    assert csv == RULES + ZOE + "\ng2, user:zoe, role:viewer\n"


async def test_second_of_two_admins_gets_both_etags(server: Room):
    """ETAG_MISMATCH names the place, the etag that was shown and the one there is."""
    await server.import_(RULES)
    place, etag = await placed(server, "ann-reads")
    await apply(server, Replace(place, etag, ANN_WRITES))
    with pytest.raises(Aborted) as caught:
        await apply(server, Delete(place, etag))
    _, current = await placed(server, "ann-reads")
    assert caught.value.reason == "ETAG_MISMATCH"
    assert caught.value.metadata == {"place": str(place), "expected": etag, "current": current}


async def test_of_two_admins_on_two_servers_at_once_one_wins(server: Room):
    """At the same moment, on different servers: one edit counts, the other is told both etags."""
    other = Room(server.database)
    await other.decisions.open()
    await server.import_(RULES)
    place, etag = await placed(server, "ann-reads")
    results = await asyncio.gather(
        apply(server, Replace(place, etag, ANN_WRITES)),
        apply(other, Replace(place, etag, ANN_WRITES.replace("write", "stop"))),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Aborted)]
    assert [error.reason for error in refused] == ["ETAG_MISMATCH"]
    assert refused[0].metadata["expected"] == etag != refused[0].metadata["current"]
    assert (await server.revisions.get(0))[0].number == 3


async def test_admins_who_change_different_lines_do_not_hinder_each_other(server: Room):
    """Without an expected revision, edits of ten admins on two servers all count."""
    other = Room(server.database)
    await other.decisions.open()
    await server.import_(RULES)
    lines = [f"p, user:zoe, *, /a/{n}, read, , allow, zoe-{n}" for n in range(6)]
    rooms = [server, other] * 3
    await asyncio.gather(
        *(apply(room, Create(line)) for room, line in zip(rooms, lines, strict=True))
    )
    revision, csv = await server.revisions.get(0)
    assert revision.number == 2 + len(lines)
    assert set(lines) <= set(csv.splitlines())


async def test_change_from_an_old_revision_is_a_conflict(server: Room):
    """REVISION_CONFLICT when the revision named is not current, whatever the etags say."""
    await server.import_(RULES)
    with pytest.raises(Aborted) as caught:
        await apply(server, Create(ZOE), wish=Wish(ADMIN, "x", expected_revision=1))
    assert (caught.value.reason, caught.value.metadata) == (
        "REVISION_CONFLICT",
        {"expected": "1", "current": "2"},
    )


@pytest.mark.parametrize("change", [Delete(7, "x"), Replace(7, "x", ZOE), Create(ZOE, 7)])
async def test_change_of_a_line_that_is_gone_is_not_found(server: Room, change: LineChange):
    """RESOURCE_NOT_FOUND names the place."""
    with pytest.raises(NotFound) as caught:
        await apply(server, change)
    assert caught.value.metadata == {"resource": "/policy/rules/7"}


async def test_every_bad_change_is_named_and_none_is_made(server: Room):
    """POLICY_INVALID carries a violation for each change that is no line; it is recorded."""
    with pytest.raises(InvalidArgument) as caught:
        await apply(server, Create("# a comment"), Create(ZOE), Create('p, "x'), Create("p, a\nb"))
    assert caught.value.reason == "POLICY_INVALID"
    assert [violation.field for violation in caught.value.violations] == [
        "changes[0].create.line",
        "changes[2].create.line",
        "changes[3].create.line",
    ]
    assert (await server.revisions.get(0))[0].number == 1
    assert (await records(server.database))[-1].reason == "POLICY_INVALID"


async def test_line_that_means_nothing_is_named_by_its_change(server: Room):
    """A fault that shows only beside the other lines still names the change that brings it."""
    await server.import_(RULES)
    with pytest.raises(InvalidArgument) as caught:
        await apply(server, Create(ZOE), Create(ZOE.replace("allow", "Allow").replace("zoe-", "y")))
    assert [violation.field for violation in caught.value.violations] == ["changes[1].create.line"]


async def test_two_changes_of_one_line_are_refused(server: Room):
    """Which of the two should count cannot be known."""
    place, etag = await placed(server, "admin-may-everything")
    with pytest.raises(InvalidArgument) as caught:
        await apply(server, Delete(place, etag), Replace(place, etag, ZOE))
    assert caught.value.violations[0].field == "changes[1].replace.line"


async def test_who_may_not_write_changes_nothing(server: Room):
    """POLICY_DENIED, by the newest rules."""
    with pytest.raises(PermissionDenied):
        await apply(server, Create(ZOE), wish=Wish("user:ann", "x"))


async def test_validated_changes_are_not_made(server: Room):
    """A dry run answers with the revision that would follow."""
    outcome = await apply(server, Create(ZOE), wish=Wish(ADMIN, "x", validate_only=True))
    assert outcome.revision is not None
    assert outcome.revision.number == 2
    assert (await server.revisions.get(0))[0].number == 1


async def test_last_admin_is_not_locked_out_on_any_path(server: Room):
    """Import, change and rollback refuse rules under which their author could not go on."""
    await server.import_(
        "p, user:zoe, *, /policy, *, , allow, zoe-all\n"
        "p, user:admin, *, /policy, *, , allow, ours\n"
    )
    await server.import_("p, user:zoe, *, /policy, *, , allow, zoe-all\n", actor="user:zoe")
    await server.import_(RULES + "p, user:zoe, *, /policy, *, , allow, z\n", actor="user:zoe")
    assert (await server.revisions.get(3))[1].count("admin") == 0
    place, etag = await placed(server, "admin-all")
    for attempt in (
        server.import_("p, user:zoe, *, /**, *, , allow, zoe-all\n"),
        apply(server, Delete(place, etag)),
        apply(server, Create("p, user:admin, *, /policy, write, , deny, out")),
        server.revisions.roll_back(WISH, 3),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await attempt
        assert caught.value.reason == "POLICY_INVALID"
        assert "user:admin could not write /policy" in caught.value.violations[0].description
    assert (await server.revisions.get(0))[0].number == 4


async def test_somebody_known_by_name_must_be_able_to_write(server: Room):
    """Who writes by grace of a token from elsewhere may not be the only one left."""
    role = "p, role:admin, *, /**, *, , allow, admin-all\n"
    server.decisions.held_roles = lambda subject: ("role:admin",) if "guest" in subject else ()
    with pytest.raises(InvalidArgument) as caught:
        await server.import_(role, actor="user:guest")
    assert "nobody whom rules or directory name" in caught.value.violations[0].description


async def test_directory_counts_as_knowing_by_name(server: Room):
    """An account with the role is somebody; a disabled one is nobody."""
    role = "p, role:admin, *, /**, *, , allow, admin-all\n"
    for account, good in ((None, False), (("role:admin",), True)):
        room = Room(server.database, standing=lambda account=account: {"user:guest": account})
        room.decisions.held_roles = lambda subject: ("role:admin",) if "guest" in subject else ()
        await room.decisions.open()
        writer = asyncio.create_task(room.audit.run())
        if good:
            assert await room.import_(role, actor="user:guest") == 2
        else:
            with pytest.raises(InvalidArgument):
                await room.import_(role, actor="user:guest")
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def test_rollback_makes_old_rules_new(server: Room):
    """A rollback is a revision more, with the old lines, and says which it went back to."""
    await server.import_(RULES)
    await apply(server, Create(ZOE))
    outcome = await server.revisions.roll_back(WISH, 2)
    revision, csv = await server.revisions.get(0)
    assert outcome.revision == revision
    assert (revision.number, csv) == (4, RULES)
    record = (await records(server.database))[-1]
    assert (record.outcome, record.details["rolled_back_to"]) == ("rolled-back", "2")
    assert await rows(server.database, 4) == (0, 1)
    with pytest.raises(NotFound):
        await server.revisions.roll_back(WISH, 99)


async def test_baseline_brings_only_what_never_was(server: Room, monkeypatch: pytest.MonkeyPatch):
    """A new rule comes in beside its neighbour; what was deleted or changed stays so, named."""
    place, etag = await placed(server, "viewer-reads-keys")
    changed, changed_etag = await placed(server, "viewer-reads-runs")
    mine = "p, role:viewer, *, /training/runs, read, ctx.open, allow, viewer-reads-runs"
    await apply(server, Delete(place, etag), Replace(changed, changed_etag, mine))
    anchor = "p, role:viewer, *, /policy, read, , allow, viewer-reads-policy\n"
    new = "p, role:viewer, *, /news, read, , allow, viewer-reads-news\n"
    upgraded = baseline_csv().replace(anchor, anchor + new)
    monkeypatch.setattr(revisions_module, "baseline_csv", lambda: upgraded)

    tried = await server.revisions.adopt_baseline(Wish(ADMIN, "x", validate_only=True))
    assert (await server.revisions.get(0))[0].number == 2
    outcome, added, left_out = await server.revisions.adopt_baseline(WISH)
    assert outcome.revision is not None
    assert (outcome.revision.number, to_csv(added)) == (3, new)
    assert {line.fields[-1] for line in left_out} == {"viewer-reads-keys", "viewer-reads-runs"}
    assert (tried.added, tried.left_out) == (added, left_out)
    _, csv = await server.revisions.get(0)
    assert anchor + new in csv
    assert mine in csv
    assert await rows(server.database, 3) == (1, 0)

    again = await server.revisions.adopt_baseline(WISH)
    assert (again.outcome.revision, again.added) == (outcome.revision, [])


async def test_model_of_its_own_travels_with_its_revision(server: Room):
    """Rules and model come back together; the digest covers both; a rollback leaves it again."""
    await server.import_(RULES)
    await server.import_(RULES, model_conf=DEFAULT_MODEL + "# ours\n")
    revision, csv = await server.revisions.get(3)
    assert (revision.model_conf, csv) == (DEFAULT_MODEL + "# ours\n", RULES)
    lines = read_rules(RULES).lines
    assert revision.digest == store.chained_digest(revision.prev_digest, lines, revision.model_conf)
    assert revision.digest != store.chained_digest(revision.prev_digest, lines)
    other = Room(server.database)
    await other.decisions.open()
    ours = other.decisions.snapshot.engine.model.digest
    assert ours == server.decisions.snapshot.engine.model.digest
    with pytest.raises(FailedPrecondition) as caught:
        await server.revisions.adopt_baseline(WISH)
    assert caught.value.reason == "POLICY_NOT_COMPILED"
    await server.revisions.roll_back(WISH, 2)
    assert (await server.revisions.get(0))[0].model_conf == ""
    assert server.decisions.snapshot.engine.model.digest != ours


async def test_older_revision_can_still_decide(server: Room):
    """What a revision said can be asked long after it."""
    await server.import_(RULES)
    await server.import_(RULES.replace("ann", "eve"))
    engine = await server.revisions.engine_of(2)
    asked = {"domain": "aegis", "resource": "/training/runs", "action": "read"}
    assert engine.decide(subject="user:ann", **asked).rule_id == "ann-reads"
    with pytest.raises(NotFound):
        await server.revisions.engine_of(9)


async def test_model_that_does_not_fit_is_refused(server: Room):
    """POLICY_INVALID for a model that is none, and nothing is stored."""
    with pytest.raises(InvalidArgument) as caught:
        await server.import_(RULES, model_conf="[matchers]\nm = eval(p.rule)\n")
    assert caught.value.reason == "POLICY_INVALID"
    assert (await server.revisions.get(0))[0].number == 1


async def test_delta_leads_from_any_revision_to_any_later_one(server: Room):
    """Left places and taken ones, applied to the older, give the newer, however far apart."""
    texts = [RULES, RULES + ZOE + "\n", ZOE + "\n" + RULES, RULES.replace("ann", "eve"), RULES]
    for text in texts:
        await server.import_(text)
    async with server.database.transaction() as connection:
        for first in range(1, 7):
            for last in range(first, 7):
                before = await store.read_placed(connection, first)
                after = await store.read_placed(connection, last)
                assert before is not None
                assert after is not None
                removed, added = await store.delta(connection, first, last)
                stepped = dict(before.placed)
                for place in removed:
                    del stepped[place]
                assert not set(stepped).intersection(place for place, _ in added)
                stepped.update(added)
                assert [Placed(*item) for item in sorted(stepped.items())] == list(after.placed)


async def test_another_server_takes_an_edit_as_a_step(
    server: Room, monkeypatch: pytest.MonkeyPatch
):
    """It reads what changed, not the file, and checks the digest of what comes out."""
    await server.import_(RULES)
    other = Room(server.database)
    await other.decisions.open()
    place, etag = await placed(server, "ann-reads")
    await apply(server, Delete(place, etag), Create(ZOE))

    async def never(connection: object, number: int) -> None:
        raise AssertionError("the whole file was read")

    with monkeypatch.context() as stepping:
        stepping.setattr(store, "read_placed", never)
        assert not (await other.decisions.decide(ANN_READS, current=True)).allowed
    ours, theirs = (room.decisions.snapshot for room in (server, other))
    assert (theirs.revision, theirs.digest) == (3, ours.digest)
    assert list(theirs.engine.lines()) == list(ours.engine.lines())


async def test_large_import_is_fast_and_one_edit_writes_two_rows(server: Room):
    """20,000 lines are stored in seconds; changing one of them removes one row and adds one."""
    many = RULES + "".join(
        f"p, role:r{n % 100}, *, /a/{n}, read, , allow, rule-{n}\n" for n in range(20_000)
    )
    await server.import_(many)
    assert (await rows(server.database, 2))[0] > 20_000
    place, etag = await placed(server, "rule-777")
    await apply(server, Replace(place, etag, "p, role:r7, *, /b, read, , allow, rule-777"))
    assert await rows(server.database, 3) == (1, 1)
    await server.import_(many)
    assert await rows(server.database, 4) == (1, 1)


async def test_storing_100_000_lines_takes_seconds(server: Room):
    """The store writes in bulk, and reads back what it wrote."""
    lines = [
        Line("p", ("user:ann", "*", f"/a/{n}", "read", "", "allow", f"r{n}"))
        for n in range(100_000)
    ]
    async with server.database.transaction() as connection:
        before = await store.read_placed(connection, 1)
        assert before is not None
        digest = store.chained_digest(before.revision.digest, lines)
        revision = store.Revision(
            2, before.revision.digest, digest, ADMIN, "x", len(lines), before.revision.at
        )
        began = time.monotonic()
        await store.append(connection, revision, step(before.placed, fresh(lines)))
        assert time.monotonic() - began < 30
        stored = await store.read_placed(connection, 2)
    assert stored is not None
    assert stored.lines == lines


async def test_edit_of_damaged_rules_is_refused(server: Room, database_url: str):
    """Nothing is built on lines that are not those imported: the missing one may be a deny."""
    await server.import_(RULES)
    other = Room(server.database)
    await other.decisions.open()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update aegis.policy_rule set position = 1 where fields @> '{ann-reads}'"
        )
    with pytest.raises(Internal):
        await apply(other, Create(ZOE))


async def test_migration_keeps_every_revision_of_an_older_installation(
    database_url: str, server_database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Positions become places with room between them; digests and order stay as they were."""
    from aegis.serving import database as module

    known = module.read_migrations("aegis_server")
    with monkeypatch.context() as older:
        older.setattr(module, "read_migrations", lambda package: known[:9])
        await migrate(database_url, "aegis_server", "aegis")
    lines = read_rules(RULES).lines
    first = store.chained_digest(bytes(32), lines[:2])
    second = store.chained_digest(first, lines)
    with psycopg.connect(database_url) as connection:
        for number, before, digest in ((1, bytes(32), first), (2, first, second)):
            connection.execute(
                "insert into aegis.policy_revision"
                " (revision, prev_digest, digest, actor, reason, rule_count, at)"
                " values (%s, %s, %s, 'user:a', 'x', %s, now())",
                (number, before, digest, number + 1),
            )
        for position, line in enumerate(lines):
            connection.execute(
                "insert into aegis.policy_rule (created_rev, position, kind, fields)"
                " values (%s, %s, %s, %s)",
                (1 if position < 2 else 2, position, line.kind, list(line.fields)),
            )
        connection.execute("update aegis.policy_head set revision = 2, digest = %s", (second,))
    assert await migrate(database_url, "aegis_server", "aegis")
    opened = Database(server_database_url, application="test")
    await opened.open()
    async with opened.transaction() as connection:
        policy = await store.read_placed(connection, 2)
        assert policy is not None
        assert policy.placed == tuple(fresh(lines))
        assert policy.placed[0].place == STRIDE
        assert await store.read_placed(connection, 1)
    # A server of the older Aegis still reads, and fails to write instead of mixing up places.
    with pytest.raises(psycopg.errors.NotNullViolation):
        async with opened.transaction() as connection:
            await connection.execute(
                "insert into aegis.policy_revision"
                " (revision, prev_digest, digest, actor, reason, rule_count, at)"
                " values (3, %s, %s, 'user:a', 'x', 1, now())",
                (second, bytes(31) + b"1"),
            )
    await opened.close()
