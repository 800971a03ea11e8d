"""PolicyAdminService over gRPC: what travels, page by page, and what is refused at the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tests.doors import DoorsFor
from tests.integration.policy.rooms import ADMIN, Room
from tests.integration.policy.test_policy_room import RULES

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import policy_admin_pb2 as pb
from aegis.v1 import policy_admin_pb2_grpc

Stub = policy_admin_pb2_grpc.PolicyAdminServiceStub
ZOE = "p, user:zoe, *, /a, read, , allow, zoe-reads"


async def refusal(call: object) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def serve(room: Room, folder: Path, caller: str, deeds: Deeds) -> grpc.aio.Server:
    async def admit(method: str, caller: Caller) -> Grant:
        return Grant(revision=1, rule_id="admin-may-everything")

    doors = DoorsFor(Caller(caller, "spiffe://aegis.local/user/admin"), admit)
    serving = grpc.aio.server(interceptors=[doors])
    policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server(
        room.admin_service(deeds), serving
    )
    serving.add_insecure_port(f"unix:{folder}/s")
    await serving.start()
    return serving


@pytest.fixture
def deeds() -> Deeds:
    return Deeds()


@pytest.fixture
async def stub(server: Room, tmp_path: Path, deeds: Deeds) -> AsyncIterator[Stub]:
    """The service behind the doors; the caller is the administrator."""
    serving = await serve(server, tmp_path, ADMIN, deeds)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield Stub(channel)
    await serving.stop(None)


async def test_listing_shows_every_line_once_while_others_edit(stub: Stub, server: Room):
    """Pages stay with the revision the listing began with."""
    _, csv = await server.revisions.get(0)
    seen, token = [], ""
    while True:
        page = await stub.ListRules(pb.ListRulesRequest(page_size=20, page_token=token))
        assert page.revision == 1
        seen += [", ".join((rule.kind, *rule.fields)) for rule in page.rules]
        token = page.next_page_token
        if not token:
            break
        await server.import_(RULES if len(seen) < 30 else csv)
    assert [line.replace('"', "") for line in csv.splitlines()] == seen


@pytest.mark.parametrize(
    ("wanted", "last_fields"),
    [
        ({"subject": "user:ann"}, ["ann-reads", "acme"]),
        ({"subject": "role:auditor"}, ["acme"]),
        ({"resource": "/training/runs"}, ["admin-all", "ann-reads"]),
        ({"resource": "/training/runs/7", "action": "stop"}, ["admin-all"]),
        ({"domain": "acme"}, ["admin-all", "role:admin", "ann-reads", "acme"]),
        ({"domain": "other", "subject": "user:ann"}, ["ann-reads"]),
        ({"rule_id": "ann-reads"}, ["ann-reads"]),
        ({"rule_id": "nothing"}, []),
    ],
)
async def test_filters_say_which_lines_are_listed(
    stub: Stub, server: Room, wanted: dict[str, str], last_fields: list[str]
):
    """Each filter narrows; patterns and stars count as what they stand for."""
    await server.import_(RULES + "g, user:ann, role:auditor, acme\n")
    page = await stub.ListRules(pb.ListRulesRequest(**wanted))
    assert page.revision == 2
    assert [rule.fields[-1] for rule in page.rules] == last_fields


async def test_token_of_another_query_is_refused(stub: Stub):
    """PAGE_TOKEN_INVALID: a token continues the query it came from and no other."""
    page = await stub.ListRules(pb.ListRulesRequest(page_size=1))
    other = pb.ListRulesRequest(page_size=1, page_token=page.next_page_token, subject="user:ann")
    assert (await refusal(stub.ListRules(other))).reason == "PAGE_TOKEN_INVALID"
    for call in (
        stub.ListRevisions(pb.ListRevisionsRequest(page_token=page.next_page_token)),
        stub.ListPolicyProposals(pb.ListPolicyProposalsRequest(page_token="x")),
    ):
        assert (await refusal(call)).reason == "PAGE_TOKEN_INVALID"


async def test_resource_that_is_no_path_is_refused(stub: Stub):
    """FIELD_INVALID names the filter."""
    error = await refusal(stub.ListRules(pb.ListRulesRequest(resource="/a//b")))
    assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", "resource")


async def test_listed_line_can_be_changed_with_its_etag(stub: Stub, server: Room):
    """What ListRules shows is what ApplyPolicyChanges asks for; a stale etag is refused."""
    await server.import_(RULES)
    (rule,) = (await stub.ListRules(pb.ListRulesRequest(rule_id="ann-reads"))).rules
    replace = pb.PolicyChange(
        replace=pb.PolicyChange.Replace(place=rule.place, etag=rule.etag, line=ZOE)
    )
    request = pb.ApplyPolicyChangesRequest(changes=[replace], reason="a test")
    answer = await stub.ApplyPolicyChanges(request)
    assert (answer.revision.revision, answer.revision.actor) == (3, ADMIN)
    error = await refusal(stub.ApplyPolicyChanges(request))
    assert error.reason == "ETAG_MISMATCH"
    assert error.metadata["expected"] == rule.etag != error.metadata["current"]


async def test_revisions_are_listed_newest_first(stub: Stub, server: Room):
    """Numbers go down over the pages; the chain can be followed by the digests."""
    await server.import_(RULES)
    await server.import_(RULES + ZOE + "\n")
    first = await stub.ListRevisions(pb.ListRevisionsRequest(page_size=2))
    second = await stub.ListRevisions(
        pb.ListRevisionsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [r.revision for r in (*first.revisions, *second.revisions)] == [3, 2, 1]
    assert first.revisions[0].prev_digest == first.revisions[1].digest
    assert second.next_page_token == ""


async def test_diff_compares_revisions_and_drafts(stub: Stub, server: Room):
    """Zero is the current revision; a draft that is no rule file is POLICY_INVALID."""
    await server.import_(RULES)
    await server.import_(RULES + ZOE + "\n")
    by_revision = await stub.DiffPolicy(pb.DiffPolicyRequest(from_revision=2))
    draft = pb.PolicyDraft(csv=RULES + ZOE + "\n")
    by_draft = await stub.DiffPolicy(pb.DiffPolicyRequest(from_revision=2, draft=draft))
    assert by_revision == by_draft
    (difference,) = by_draft.differences
    assert (difference.before, difference.after.strip()) == ("", ZOE)
    bad = pb.DiffPolicyRequest(draft=pb.PolicyDraft(csv="nonsense"))
    assert (await refusal(stub.DiffPolicy(bad))).reason == "POLICY_INVALID"
    missing = pb.DiffPolicyRequest(from_revision=9)
    assert (await refusal(stub.DiffPolicy(missing))).reason == "RESOURCE_NOT_FOUND"


async def test_rollback_travels(stub: Stub, server: Room):
    """The answer is the new revision; one that never was is not found."""
    await server.import_(RULES)
    answer = await stub.RollbackPolicy(pb.RollbackPolicyRequest(to_revision=1, reason="a test"))
    assert (answer.revision.revision, answer.proposal_id) == (3, "")
    missing = pb.RollbackPolicyRequest(to_revision=9, reason="a test")
    assert (await refusal(stub.RollbackPolicy(missing))).reason == "RESOURCE_NOT_FOUND"


async def test_lint_of_a_draft_names_what_an_import_would_refuse(stub: Stub):
    """A bad line is a finding with its place, not an error; so any draft can be looked at."""
    draft = pb.PolicyDraft(csv=RULES + "p, user:ann, *, /a, read, , Deny, typo\n")
    found = (await stub.LintPolicy(pb.LintPolicyRequest(draft=draft))).findings
    errors = [each for each in found if each.severity == pb.LintFinding.SEVERITY_ERROR]
    assert [each.line for each in errors] == [4]
    current = await stub.LintPolicy(pb.LintPolicyRequest())
    assert all(each.severity != pb.LintFinding.SEVERITY_ERROR for each in current.findings)
    missing = pb.LintPolicyRequest(revision=9)
    assert (await refusal(stub.LintPolicy(missing))).reason == "RESOURCE_NOT_FOUND"


async def test_adopting_shows_what_it_adds_and_leaves_out(stub: Stub, server: Room):
    """Nothing of a baseline comes back that somebody took out."""
    await server.import_(RULES)
    answer = await stub.AdoptBaseline(pb.AdoptBaselineRequest(reason="upgrade"))
    assert (answer.revision.revision, list(answer.added)) == (2, [])
    assert any(line.endswith("viewer-reads-policy") for line in answer.left_out)


async def test_proposal_is_listed_and_decided_over_the_wire(
    server: Room, tmp_path: Path, deeds: Deeds
):
    """Its state, people and times travel; a second decision is PROPOSAL_DECIDED."""
    await server.import_(RULES + "g2, user:eve, role:admin\n")
    server.revisions.writer._two_person = True
    (tmp_path / "eve").mkdir()
    serving = await serve(server, tmp_path, ADMIN, deeds)
    eves = await serve(server, tmp_path / "eve", "user:eve", deeds)
    async with (
        grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as ours,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/eve/s") as hers,
    ):
        stub, eve = Stub(ours), Stub(hers)
        create = pb.PolicyChange(create=pb.PolicyChange.Create(line=ZOE))
        answer = await stub.ApplyPolicyChanges(
            pb.ApplyPolicyChangesRequest(changes=[create], reason="zoe needs it")
        )
        assert not answer.HasField("revision")
        request = pb.DecidePolicyProposalRequest(proposal_id=answer.proposal_id, approve=True)
        assert (await refusal(stub.DecidePolicyProposal(request))).reason == "PROPOSAL_OWN"
        waiting = await eve.ListPolicyProposals(pb.ListPolicyProposalsRequest(pending_only=True))
        (proposal,) = waiting.proposals
        assert (proposal.state, proposal.proposer) == (pb.PolicyProposal.STATE_PENDING, ADMIN)
        assert proposal.differences[0].after.strip() == ZOE
        decided = (await eve.DecidePolicyProposal(request)).proposal
        assert (decided.state, decided.decider, decided.revision) == (
            pb.PolicyProposal.STATE_APPROVED,
            "user:eve",
            3,
        )
        assert decided.HasField("decide_time")
        error = await refusal(eve.DecidePolicyProposal(request))
        assert (error.reason, error.metadata["state"]) == ("PROPOSAL_DECIDED", "approved")
    await serving.stop(None)
    await eves.stop(None)


async def test_client_that_leaves_does_not_stop_a_change(stub: Stub, server: Room, deeds: Deeds):
    """The change is made although nobody waits for its answer."""
    create = pb.PolicyChange(create=pb.PolicyChange.Create(line=ZOE))
    call = stub.ApplyPolicyChanges(pb.ApplyPolicyChangesRequest(changes=[create], reason="x"))
    async with asyncio.timeout(10):
        while not deeds._running:
            await asyncio.sleep(0)
    call.cancel()
    await deeds.drain()
    assert ZOE in (await server.revisions.get(0))[1]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ApplyPolicyChangesRequest(reason="x"),
        pb.ApplyPolicyChangesRequest(changes=[pb.PolicyChange()], reason="x"),
        pb.ApplyPolicyChangesRequest(
            changes=[pb.PolicyChange(create=pb.PolicyChange.Create(line=ZOE))]
        ),
    ],
)
async def test_incomplete_request_is_refused(stub: Stub, request_: pb.ApplyPolicyChangesRequest):
    """FIELD_INVALID without changes, without what to change, without a reason."""
    assert (await refusal(stub.ApplyPolicyChanges(request_))).reason == "FIELD_INVALID"
