"""PolicyService over gRPC: what travels, what is refused, and what the decision log keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import struct_pb2
from tests.doors import DoorsFor
from tests.integration.policy.rooms import ADMIN, Room

from aegis.errors import AegisError, from_rpc_error, from_status
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import policy_admin_pb2, policy_admin_pb2_grpc, policy_pb2, policy_pb2_grpc
from aegis_policy.models import DEFAULT_MODEL

Stub = policy_pb2_grpc.PolicyServiceStub


@pytest.fixture
async def stub(server: Room, tmp_path: Path) -> AsyncIterator[Stub]:
    """The service behind the doors; the caller is the administrator."""

    async def admit(method: str, caller: Caller) -> Grant:
        return Grant(revision=1, rule_id="admin-may-everything")

    doors = DoorsFor(Caller(ADMIN, "spiffe://aegis.local/user/admin"), admit)
    serving = grpc.aio.server(interceptors=[doors])
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(server.policy_service(), serving)
    policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server(
        server.admin_service(Deeds()), serving
    )
    address = f"unix:{tmp_path}/s"
    serving.add_insecure_port(address)
    await serving.start()
    async with grpc.aio.insecure_channel(address) as channel:
        server.channel = channel  # type: ignore[attr-defined]
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


async def recorded(server: Room, count: int) -> list[policy_admin_pb2.DecisionRecord]:
    """Returns the newest decisions of the log, once there are so many."""
    admin = policy_admin_pb2_grpc.PolicyAdminServiceStub(server.channel)  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while True:
            listed = await admin.ListDecisions(policy_admin_pb2.ListDecisionsRequest())
            if len(listed.decisions) >= count:
                return list(listed.decisions)
            await asyncio.sleep(0.02)


async def test_evaluate_answers_with_rule_and_revision_and_is_recorded(stub: Stub, server: Room):
    """The answer can be looked up in the log: who asked, about whom, and what decided."""
    response = await stub.Evaluate(asked())
    assert (response.effect, response.rule_id, response.revision, response.source) == (
        policy_pb2.EFFECT_ALLOW,
        "automation-evaluates",
        1,
        policy_pb2.DECISION_SOURCE_ENGINE,
    )
    assert not response.HasField("valid_until")
    (record,) = await recorded(server, 1)
    assert (record.caller, record.effect, record.rule_id, record.decision_id) == (
        ADMIN,
        policy_pb2.EFFECT_ALLOW,
        "automation-evaluates",
        response.decision_id,
    )
    assert (record.request.subject, record.request.domain) == ("automation:autopilot", "aegis")
    assert record.source == policy_pb2.DECISION_SOURCE_ENGINE


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
    (record,) = await recorded(server, 1)
    assert record.effect == policy_pb2.EFFECT_DENY
    assert record.attributes_digest
    assert not record.request.attributes.fields


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
        answers = await stub.BatchEvaluate(batch)
        assert answers.responses[0].effect == policy_pb2.EFFECT_ALLOW
        assert answers.statuses[0].code == 0
        error = from_status(answers.statuses[1])
        assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", field)
        assert not answers.responses[1].effect


async def test_batch_answers_in_order_and_records_each(stub: Stub, server: Room):
    """Every answer of a batch has its own record."""
    requests = [asked(), asked("/audit"), asked()]
    response = await stub.BatchEvaluate(policy_pb2.BatchEvaluateRequest(requests=requests))
    allow, deny = policy_pb2.EFFECT_ALLOW, policy_pb2.EFFECT_DENY
    assert [answer.effect for answer in response.responses] == [allow, deny, allow]
    assert not response.statuses
    ids = {record.decision_id for record in await recorded(server, 3)}
    assert {answer.decision_id for answer in response.responses} == ids


async def test_stream_answers_each_question_and_goes_on_behind_a_bad_one(stub: Stub):
    """Answers keep the order, and a refused question does not end the stream."""
    questions = [asked(), asked("/policy/../audit"), asked("/audit"), policy_pb2.EvaluateRequest()]
    call = stub.StreamEvaluate(
        policy_pb2.StreamEvaluateRequest(sequence=index + 7, request=question)
        for index, question in enumerate(questions)
    )
    answers = [answer async for answer in call]
    assert [answer.sequence for answer in answers] == [7, 8, 9, 10]
    assert [answer.response.effect for answer in answers] == [
        policy_pb2.EFFECT_ALLOW,
        policy_pb2.EFFECT_UNSPECIFIED,
        policy_pb2.EFFECT_DENY,
        policy_pb2.EFFECT_UNSPECIFIED,
    ]
    for answer in (answers[1], answers[3]):
        assert from_status(answer.status).reason == "FIELD_INVALID"


async def test_consistency_is_asked_for_in_every_way_of_asking(stub: Stub, server: Room):
    """A revision that does not exist is refused, in a call, a batch and a stream."""
    future = policy_pb2.Consistency(at_least_revision=99)
    error = await refusal(stub.Evaluate(asked(consistency=future)))
    assert (error.reason, error.metadata["revision"]) == ("REVISION_AHEAD", "1")
    batch = policy_pb2.BatchEvaluateRequest(requests=[asked()], consistency=future)
    assert (await refusal(stub.BatchEvaluate(batch))).reason == "REVISION_AHEAD"
    message = policy_pb2.StreamEvaluateRequest(request=asked(consistency=future))
    (answer,) = [answer async for answer in stub.StreamEvaluate(iter([message]))]
    assert from_status(answer.status).reason == "REVISION_AHEAD"
    now = policy_pb2.Consistency(fully_current=True)
    assert (await stub.Evaluate(asked(consistency=now))).revision == 1


async def test_explanation_travels_and_decides_nothing(stub: Stub, server: Room):
    """Rule, role path, condition and values, and what would have allowed it."""
    request = policy_pb2.EvaluateRequest(
        subject="automation:autopilot",
        resource="/clusters/sandbox/namespaces/shop/deployments/cart",
        action="scale_deployment",
        attributes={"namespace": "shop", "replicas": 99},
    )
    told = await stub.Explain(policy_pb2.ExplainRequest(request=request))
    assert told.decision.rule_id == "automation-replicas-out-of-bounds"
    first = told.matched[0]
    assert first.role_path == ["automation:autopilot", "role:automation"]
    assert first.values["ctx.replicas"] == "99.0"
    assert "role:guarded" in told.roles
    assert told.would_allow
    assert not told.decision.decision_id
    listed = await recorded(server, 0)
    assert listed == []


async def test_explanation_by_an_older_revision(stub: Stub, server: Room):
    """What is denied now was allowed by the rules of then."""
    await server.import_("p, user:admin, *, /**, *, , allow, all\n")
    asked_then = policy_pb2.ExplainRequest(request=asked(), revision=1)
    assert (await stub.Explain(asked_then)).decision.effect == policy_pb2.EFFECT_ALLOW
    now = await stub.Explain(policy_pb2.ExplainRequest(request=asked()))
    assert (now.decision.effect, now.decision.revision) == (policy_pb2.EFFECT_DENY, 2)
    error = await refusal(stub.Explain(policy_pb2.ExplainRequest(request=asked(), revision=9)))
    assert error.reason == "RESOURCE_NOT_FOUND"


async def test_permissions_are_listed_in_pages(stub: Stub):
    """All that a subject may do comes, and a token is good for its own query only."""
    seen, token = [], ""
    while True:
        page = await stub.ListPermitted(
            policy_pb2.ListPermittedRequest(
                subject="automation:autopilot", page_size=2, page_token=token
            )
        )
        seen += [permission.rule_id for permission in page.permissions]
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert len(seen) == len(set(seen)) > 5
    other = policy_pb2.ListPermittedRequest(subject="user:admin", page_token=token)
    assert (await refusal(stub.ListPermitted(other))).reason == "PAGE_TOKEN_INVALID"
    who = policy_pb2.ListPermittedRequest(resource="/policy", action="write")
    found = await stub.ListPermitted(who)
    assert [each.subject for each in found.permissions] == ["user:admin"]
    error = await refusal(stub.ListPermitted(policy_pb2.ListPermittedRequest()))
    assert error.violations[0].field == "subject"


async def test_policy_with_a_model_of_its_own_decides_and_gives_no_reasons(stub: Stub):
    """It runs on PyCasbin; what needs a compiled one is refused with that reason."""
    model = DEFAULT_MODEL.replace(
        'p.act == "*" || p.act == r.act', 'p.act == r.act || p.act == "*"'
    )
    csv = "p, user:admin, *, /**, *, , allow, all\n"
    await stub.ImportPolicy(
        policy_pb2.ImportPolicyRequest(csv=csv, reason="a test", model_conf=model)
    )
    assert (await stub.GetPolicy(policy_pb2.GetPolicyRequest())).model_conf == model
    question = policy_pb2.EvaluateRequest(subject="user:admin", resource="/a", action="read")
    assert (await stub.Evaluate(question)).rule_id == "all"
    for call in (
        stub.Explain(policy_pb2.ExplainRequest(request=question)),
        stub.ListPermitted(policy_pb2.ListPermittedRequest(subject="user:admin")),
    ):
        assert (await refusal(call)).reason == "POLICY_NOT_COMPILED"


async def test_reported_decisions_are_recorded_once_under_their_reporter(stub: Stub, server: Room):
    """A replica sends what it decided by itself, and again when it did not hear an answer."""
    decision = policy_pb2.ReportedDecision(
        request=asked(),
        effect=policy_pb2.EFFECT_ALLOW,
        rule_id="automation-evaluates",
        revision=1,
        decision_id="3f0c8e0e-5f3b-4a39-8a0e-1f2a3b4c5d6e",
        microseconds=5,
    )
    decision.time.GetCurrentTime()
    for _ in range(2):
        await stub.ReportDecisions(policy_pb2.ReportDecisionsRequest(decisions=[decision]))
    (record,) = await recorded(server, 1)
    assert (record.source, record.caller) == (policy_pb2.DECISION_SOURCE_LOCAL, ADMIN)
    assert record.decision_id == decision.decision_id


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


async def test_attribute_of_a_megabyte_is_refused(stub: Stub):
    """REQUEST_TOO_LARGE, before anybody reads it; so is a batch of such."""
    large = asked(attributes={"note": "x" * 1_000_000})
    error = await refusal(stub.Evaluate(large))
    assert (error.reason, error.metadata["limit_bytes"]) == ("REQUEST_TOO_LARGE", "262144")


async def test_batch_of_a_hundred_thousand_questions_is_refused(stub: Stub):
    """A thousand are the most; none of them is decided."""
    question = policy_pb2.EvaluateRequest(subject="user:a", resource="/a", action="read")
    batch = policy_pb2.BatchEvaluateRequest(requests=[question] * 100_000)
    error = await refusal(stub.BatchEvaluate(batch))
    assert error.reason in ("REQUEST_TOO_LARGE", "FIELD_INVALID")
    batch = policy_pb2.BatchEvaluateRequest(requests=[question] * 1001)
    error = await refusal(stub.BatchEvaluate(batch))
    assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", "requests")
    empty = await refusal(stub.BatchEvaluate(policy_pb2.BatchEvaluateRequest()))
    assert empty.violations[0].field == "requests"
