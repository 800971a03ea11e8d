"""PolicyService over gRPC: what travels, what is refused, and what the audit log keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import struct_pb2
from tests.doors import DoorsFor
from tests.integration.policy.rooms import ADMIN, Room

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2, policy_pb2, policy_pb2_grpc
from aegis_server.policy.service import PolicyService

Stub = policy_pb2_grpc.PolicyServiceStub


@pytest.fixture
async def stub(server: Room, tmp_path: Path) -> AsyncIterator[Stub]:
    """The service behind the doors; the caller is the administrator."""

    async def admit(method: str, caller: Caller) -> Grant:
        return Grant(revision=1, rule_id="admin-may-everything")

    doors = DoorsFor(Caller(ADMIN, "spiffe://aegis.local/user/admin"), admit)
    serving = grpc.aio.server(interceptors=[doors])
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(
        PolicyService(decisions=server.decisions, revisions=server.revisions, audit=server.audit),
        serving,
    )
    address = f"unix:{tmp_path}/s"
    serving.add_insecure_port(address)
    await serving.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Stub(channel)
    await serving.stop(None)


def asked(resource: str = "/policy", **fields: object) -> policy_pb2.EvaluateRequest:
    return policy_pb2.EvaluateRequest(
        subject="automation:autopilot", resource=resource, action="evaluate", **fields
    )


async def refusal(call: object) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


async def last_record(server: Room) -> audit_pb2.AuditRecord:
    async with server.database.transaction() as connection:
        rows = await Store("aegis").stored_from(connection, start=0, limit=100)
    return audit_pb2.AuditRecord.FromString(rows[-1][1])


async def test_evaluate_answers_with_rule_and_revision_and_is_recorded(stub: Stub, server: Room):
    """The answer can be looked up in the log: who asked, about whom, which rule let him ask."""
    response = await stub.Evaluate(asked())
    assert (response.effect, response.rule_id, response.revision, response.source) == (
        policy_pb2.EFFECT_ALLOW,
        "automation-evaluates",
        1,
        policy_pb2.DECISION_SOURCE_ENGINE,
    )
    assert not response.HasField("valid_until")
    record = await last_record(server)
    assert (record.kind, record.actor, record.outcome, record.rule_id, record.subject_id) == (
        audit_pb2.AUDIT_KIND_DECISION,
        ADMIN,
        "allow",
        "automation-evaluates",
        response.decision_id,
    )
    assert record.details["subject"] == "automation:autopilot"
    assert record.details["granted_by_rule"] == "admin-may-everything"


async def test_denial_is_an_answer_and_attributes_stay_out_of_the_log(stub: Stub, server: Room):
    """A denial names its rule; what conditions read is kept as a digest only."""
    response = await stub.Evaluate(
        policy_pb2.EvaluateRequest(
            subject="automation:autopilot",
            resource="/clusters/sandbox/namespaces/payments/deployments/ledger",
            action="scale_deployment",
            attributes={"namespace": "payments", "replicas": 3},
        )
    )
    assert (response.effect, response.rule_id) == (
        policy_pb2.EFFECT_DENY,
        "automation-outside-its-namespaces",
    )
    record = await last_record(server)
    assert record.outcome == "deny"
    assert "payments" not in "".join(record.details.values())


async def test_valid_until_travels(stub: Stub, server: Room):
    """An answer that reads the clock says how long it holds."""
    await server.import_(
        "p, user:admin, *, /**, *, , allow, all\n"
        "p, automation:autopilot, *, /policy, *, \"between('2020-01-01T00:00:00Z',"
        " '2120-01-01T00:00:00Z')\", allow, this-century\n"
    )
    response = await stub.Evaluate(asked())
    assert response.valid_until.ToJsonString() == "2120-01-01T00:00:00Z"


def number(value: float) -> struct_pb2.Struct:
    return struct_pb2.Struct(fields={"epsilon": struct_pb2.Value(number_value=value)})


def nested(depth: int) -> struct_pb2.Struct:
    value = struct_pb2.Value(bool_value=True)
    for _ in range(depth):
        value = struct_pb2.Value(struct_value=struct_pb2.Struct(fields={"a": value}))
    return struct_pb2.Struct(fields={"a": value})


BAD_QUESTIONS = [
    (asked("/policy/../audit"), "resource"),
    (asked("/cafe\u0301"), "resource"),
    (asked("policy"), "resource"),
    (asked("/policy/"), "resource"),
    (policy_pb2.EvaluateRequest(subject="role:admin", resource="/a", action="read"), "subject"),
    (policy_pb2.EvaluateRequest(subject="admin", resource="/a", action="read"), "subject"),
    (policy_pb2.EvaluateRequest(subject="user:a", resource="/a"), "action"),
    (asked(attributes=number(float("nan"))), "attributes.epsilon"),
    (asked(attributes=number(float("-inf"))), "attributes.epsilon"),
    (asked(attributes=nested(20)), "attributes" + ".a" * 17),
    (asked(attributes={f"n{index}": index for index in range(65)}), "attributes"),
]


async def test_bad_question_is_refused_naming_the_field(stub: Stub):
    """FIELD_INVALID names the field, in one question and within a batch."""
    for question, field in BAD_QUESTIONS:
        error = await refusal(stub.Evaluate(question))
        assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", field)
        batch = policy_pb2.BatchEvaluateRequest(requests=[asked(), question])
        error = await refusal(stub.BatchEvaluate(batch))
        where = f"requests[1].{field}"
        assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", where)


async def test_batch_answers_in_order_and_records_each(stub: Stub, server: Room):
    """Every answer of a batch has its own record."""
    requests = [asked(), asked("/audit"), asked()]
    response = await stub.BatchEvaluate(policy_pb2.BatchEvaluateRequest(requests=requests))
    allow, deny = policy_pb2.EFFECT_ALLOW, policy_pb2.EFFECT_DENY
    assert [answer.effect for answer in response.responses] == [allow, deny, allow]
    async with server.database.transaction() as connection:
        rows = await Store("aegis").stored_from(connection, start=0, limit=100)
    ids = {audit_pb2.AuditRecord.FromString(row[1]).subject_id for row in rows}
    assert {answer.decision_id for answer in response.responses} <= ids


async def test_answer_that_cannot_be_recorded_is_not_given(stub: Stub, server: Room):
    """AUDIT_UNAVAILABLE: no decision leaves without its record."""
    server.audit.database = Database("postgresql://nobody@/nothing?host=/nowhere", application="t")
    error = await refusal(stub.Evaluate(asked(), timeout=20))
    assert error.reason == "AUDIT_UNAVAILABLE"


async def test_import_and_get_policy_travel(stub: Stub):
    """An import answers with its revision, and GetPolicy gives back what was imported."""
    csv = "p, user:admin, *, /**, *, , allow, all\n"
    imported = await stub.ImportPolicy(
        policy_pb2.ImportPolicyRequest(csv=csv, expected_revision=1, reason="a test")
    )
    got = await stub.GetPolicy(policy_pb2.GetPolicyRequest())
    assert got.csv == csv
    assert got.revision == imported.revision
    assert (got.revision.revision, got.revision.actor, got.revision.reason) == (2, ADMIN, "a test")
    assert len(got.revision.digest) == 32
    first = await stub.GetPolicy(policy_pb2.GetPolicyRequest(revision=1))
    assert first.revision.rule_count == first.csv.count("\n") > 30


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"csv": "q\n" * 5000, "reason": "x"}, "POLICY_INVALID"),
        ({"csv": "p, user:admin, *, /**, *, , allow, all\n"}, "FIELD_INVALID"),
        ({"csv": "", "reason": "x"}, "FIELD_INVALID"),
        (
            {
                "csv": "p, user:admin, *, /**, *, , allow, all\n",
                "reason": "x",
                "expected_revision": 9,
            },
            "REVISION_CONFLICT",
        ),
    ],
)
async def test_bad_import_is_a_typed_error(stub: Stub, change: dict[str, object], reason: str):
    """Each refusal of an import has its reason, however large the file that caused it."""
    error = await refusal(stub.ImportPolicy(policy_pb2.ImportPolicyRequest(**change)))
    assert error.reason == reason
    assert (await stub.GetPolicy(policy_pb2.GetPolicyRequest())).revision.revision == 1


async def test_unknown_revision_is_not_found(stub: Stub):
    """RESOURCE_NOT_FOUND for a revision that never was."""
    error = await refusal(stub.GetPolicy(policy_pb2.GetPolicyRequest(revision=99)))
    assert (error.reason, error.metadata["resource"]) == (
        "RESOURCE_NOT_FOUND",
        "/policy/revisions/99",
    )


async def test_imports_under_load_mix_no_two_revisions(stub: Stub, server: Room):
    """While rules change, each answer is the one its own revision gives."""
    allows = "p, user:admin, *, /**, *, , allow, all\n"
    for_autopilot = "p, automation:autopilot, *, /policy, *, , allow, even\n"

    async def ask() -> list[policy_pb2.EvaluateResponse]:
        return [await stub.Evaluate(asked()) for _ in range(30)]

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for number in range(2, 8):
        await server.import_(allows + (for_autopilot if number % 2 == 0 else ""))
    for answers in asking:
        for answer in await answers:
            if answer.revision > 1:
                assert (answer.rule_id == "even") is (answer.revision % 2 == 0)
