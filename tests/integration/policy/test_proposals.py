"""Where two people are needed: what a proposal holds, and who may make it count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
from aegis.serving.database import Database
from aegis_policy.models import DEFAULT_MODEL
from aegis_server.policy.changes import Create
from aegis_server.policy.revisions import Change
from aegis_server.policy.wishes import Wish

EVE = "user:eve"
BOTH = (
    "g2, user:admin, role:admin\ng2, user:eve, role:admin\np, role:admin, *, /**, *, , allow, all\n"
)
WITH_ANN = BOTH + "p, user:ann, *, /training/runs, read, , allow, ann-reads\n"


@pytest.fixture
async def room(server: Room) -> AsyncIterator[Room]:
    """A server that is told to need two people; the rules know two administrators."""
    await server.import_(BOTH)
    started = Room(server.database, two_person=True)
    writer = asyncio.create_task(started.audit.run())
    await started.decisions.open()
    yield started
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def propose(room: Room, csv: str = WITH_ANN, model_conf: str = "") -> str:
    outcome = await room.revisions.import_rules(
        Change(csv, ADMIN, "ann needs it", model_conf=model_conf)
    )
    assert outcome.revision is None
    return outcome.proposal_id


async def test_change_becomes_a_proposal_and_changes_nothing(room: Room):
    """It is kept with its differences and its base, and the log says who proposed."""
    proposal = await room.proposals.get(await propose(room))
    assert (proposal.state, proposal.proposer, proposal.base_revision) == ("pending", ADMIN, 2)
    assert proposal.reason == "ann needs it"
    assert any("ann-reads" in after for _, _, after in proposal.differences)
    assert (await room.revisions.get(0))[0].number == 2
    assert not (await room.decisions.decide(ANN_READS)).allowed
    record = (await records(room.database))[-1]
    assert (record.outcome, record.actor) == ("proposed", ADMIN)
    assert record.subject_id == f"policy/{proposal.proposal_id}"


async def test_every_kind_of_change_becomes_a_proposal(room: Room):
    """Changes of lines and rollbacks wait for a second person as imports do."""
    changed = await room.revisions.apply(Wish(ADMIN, "x"), [Create("g2, user:zoe, role:admin")])
    rolled = await room.revisions.roll_back(Wish(ADMIN, "x"), 1)
    assert changed.revision is rolled.revision is None
    waiting = await room.proposals.list(before=None, limit=10, pending_only=True)
    assert [each.proposal_id for each in waiting] == [rolled.proposal_id, changed.proposal_id]
    approved = await room.proposals.approve(changed.proposal_id, EVE, "")
    assert approved.revision == 3


async def test_second_person_makes_it_the_newest_revision(room: Room):
    """The revision is its proposer's; the log names both, and it counts at once."""
    proposal_id = await propose(room)
    proposal = await room.proposals.approve(proposal_id, EVE, "fine with me")
    assert (proposal.state, proposal.decider, proposal.revision) == ("approved", EVE, 3)
    revision, csv = await room.revisions.get(0)
    assert (revision.number, revision.actor, revision.reason) == (3, ADMIN, "ann needs it")
    assert (csv, revision.digest) == (WITH_ANN, proposal.digest)
    assert (await room.decisions.decide(ANN_READS)).allowed
    record = (await records(room.database))[-1]
    assert (record.outcome, record.actor, record.details["proposer"]) == ("approved", EVE, ADMIN)
    assert record.details["revision"] == "3"
    assert {beside.name for beside in record.attachments} == {"reason", "note"}


async def test_nobody_approves_their_own_proposal(room: Room):
    """PROPOSAL_OWN, and it goes on waiting."""
    proposal_id = await propose(room)
    with pytest.raises(PermissionDenied) as caught:
        await room.proposals.approve(proposal_id, ADMIN, "")
    assert caught.value.reason == "PROPOSAL_OWN"
    assert (await room.proposals.get(proposal_id)).state == "pending"


async def test_who_may_not_write_decides_nothing(room: Room):
    """POLICY_DENIED, for approving as for rejecting."""
    proposal_id = await propose(room)
    for decide in (room.proposals.approve, room.proposals.reject):
        with pytest.raises(PermissionDenied) as caught:
            await decide(proposal_id, "user:ann", "")
        assert caught.value.reason == "POLICY_DENIED"


async def test_rejected_proposal_stays_rejected(room: Room):
    """PROPOSAL_DECIDED says what it is; the log has the rejection and its note."""
    proposal_id = await propose(room)
    rejected = await room.proposals.reject(proposal_id, EVE, "no")
    assert (rejected.state, rejected.decider) == ("rejected", EVE)
    record = (await records(room.database))[-1]
    assert (record.outcome, record.actor, record.details["proposer"]) == ("rejected", EVE, ADMIN)
    for decide in (room.proposals.approve, room.proposals.reject):
        with pytest.raises(FailedPrecondition) as caught:
            await decide(proposal_id, EVE, "")
        assert (caught.value.reason, caught.value.metadata) == (
            "PROPOSAL_DECIDED",
            {"state": "rejected"},
        )


async def test_own_proposal_can_be_taken_back(room: Room):
    """Rejecting needs no second person."""
    assert (await room.proposals.reject(await propose(room), ADMIN, "")).state == "rejected"


async def test_proposal_is_outdated_once_the_rules_moved_on(room: Room, server: Room):
    """REVISION_CONFLICT: what was approved would not be what was shown."""
    proposal_id = await propose(room)
    await server.import_(BOTH + "p, user:bob, *, /b, read, , allow, bob\n")
    assert (await room.proposals.get(proposal_id)).state == "outdated"
    assert await room.proposals.list(before=None, limit=5, pending_only=True) == []
    with pytest.raises(Aborted) as caught:
        await room.proposals.approve(proposal_id, EVE, "")
    assert (caught.value.reason, caught.value.metadata) == (
        "REVISION_CONFLICT",
        {"expected": "2", "current": "3"},
    )


async def test_two_who_approve_at_once_make_one_revision(room: Room):
    """The second finds it decided, or the rules moved on."""
    proposal_id = await propose(room)
    other = Room(room.database, two_person=True)
    await other.decisions.open()
    results = await asyncio.gather(
        room.proposals.approve(proposal_id, EVE, ""),
        other.proposals.approve(proposal_id, EVE, ""),
        return_exceptions=True,
    )
    refused = [each for each in results if isinstance(each, FailedPrecondition | Aborted)]
    assert len(refused) == 1
    assert (await room.revisions.get(0))[0].number == 3


async def test_proposal_that_locks_its_approver_out_is_refused(room: Room):
    """Whoever makes rules count must be able to repair them."""
    proposal_id = await propose(room, BOTH.replace("g2, user:eve, role:admin\n", ""))
    with pytest.raises(InvalidArgument) as caught:
        await room.proposals.approve(proposal_id, EVE, "")
    assert "user:eve could not write /policy" in caught.value.violations[0].description


async def test_bad_rules_do_not_even_become_a_proposal(room: Room):
    """POLICY_INVALID when proposing, so that nobody reads for nothing."""
    with pytest.raises(InvalidArgument):
        await propose(room, BOTH + "nonsense\n")
    assert await room.proposals.list(before=None, limit=5, pending_only=False) == []


async def test_proposed_model_travels_too(room: Room):
    """A proposal holds its whole draft: file and model."""
    proposal_id = await propose(room, model_conf=DEFAULT_MODEL + "# ours\n")
    assert ["the model changes", "", ""] in (await room.proposals.get(proposal_id)).differences
    await room.proposals.approve(proposal_id, EVE, "")
    assert (await room.revisions.get(0))[0].model_conf == DEFAULT_MODEL + "# ours\n"


async def test_unknown_proposal_is_not_found(room: Room):
    """RESOURCE_NOT_FOUND names it."""
    with pytest.raises(NotFound) as caught:
        await room.proposals.approve("6f1f9b1e-0d8e-4c39-8a53-5a4b7f1b7f10", EVE, "")
    assert caught.value.metadata["resource"].startswith("/policy/proposals/6f1f")


async def test_draft_that_was_altered_behind_our_back_is_not_approved(
    room: Room, database_url: str
):
    """What is approved is what was proposed: the digest of the revision to come is kept with it."""
    proposal_id = await propose(room)
    with psycopg.connect(database_url) as connection:
        connection.execute("update aegis.policy_proposal set csv = replace(csv, 'ann', 'eve')")
    with pytest.raises(Internal):
        await room.proposals.approve(proposal_id, EVE, "")
    assert (await room.revisions.get(0))[0].number == 2


async def test_server_role_cannot_alter_a_draft(room: Room):
    """The program's own database role may decide proposals and nothing else."""
    await propose(room)
    for statement in (
        "update aegis.policy_proposal set csv = ''",
        "update aegis.policy_proposal set proposer = 'user:eve'",
        "delete from aegis.policy_proposal",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with room.database.transaction() as connection:
                await connection.execute(statement.encode())


async def test_without_the_option_changes_count_at_once(server: Room, database: Database):
    """One person is enough where nothing else is said."""
    assert await server.import_(RULES) == 2
    assert await server.proposals.list(before=None, limit=5, pending_only=False) == []
