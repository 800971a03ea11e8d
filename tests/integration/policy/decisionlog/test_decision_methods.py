"""The rpcs over the decision log: filters, pages, samples, simulations and reports."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.doors import DoorsFor
from tests.integration.policy.decisionlog.logs import Logging, now, stored

from aegis.errors import AegisError, InvalidArgument, ResourceExhausted, from_rpc_error
from aegis.serving.database import Database
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import policy_admin_pb2, policy_admin_pb2_grpc, policy_pb2
from aegis_policy import Engine, PolicyError
from aegis_server.policy.decisionlog import DecisionLog
from aegis_server.policy.decisionlog.service import DecisionLogMethods, report

Stub = policy_admin_pb2_grpc.PolicyAdminServiceStub
ROLES = {"user:held": ("role:operator",)}


class Methods(DecisionLogMethods):
    """What PolicyAdminService inherits."""

    def __init__(self, log: DecisionLog) -> None:
        self._decision_log = log
        self._clock = now
        self._held_roles = lambda subject: ROLES.get(subject, ())
        self._current = lambda: Engine.from_csv(IN_FORCE)

    def _engine_of(self, draft: policy_admin_pb2.PolicyDraft) -> Engine:
        try:
            return Engine.from_csv(draft.csv, draft.model_conf or None)
        except PolicyError as error:
            raise InvalidArgument("POLICY_INVALID", str(error)) from None


@pytest.fixture
async def stub(logging: Logging, tmp_path: Path) -> AsyncIterator[Stub]:
    async def admit(method: str, caller: Caller) -> Grant:
        return Grant(revision=1, rule_id="admin-may-everything")

    methods = Methods(logging.log)
    names = ("ListDecisions", "SimulatePolicy")
    handlers = {}
    for name in (*names, "ExportDecisions"):
        make = (
            grpc.unary_unary_rpc_method_handler
            if name in names
            else grpc.unary_stream_rpc_method_handler
        )
        handlers[name] = make(
            getattr(methods, name),
            request_deserializer=getattr(policy_admin_pb2, f"{name}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
    doors = DoorsFor(Caller("user:admin", "spiffe://aegis.local/user/admin"), admit)
    serving = grpc.aio.server(interceptors=[doors])
    serving.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("aegis.v1.PolicyAdminService", handlers),)
    )
    serving.add_insecure_port(f"unix:{tmp_path}/s")
    await serving.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield Stub(channel)
    await serving.stop(None)


async def refusal(call: object) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value)


def listing(**fields: object) -> policy_admin_pb2.ListDecisionsRequest:
    paging = {name: fields.pop(name) for name in ("page_size", "page_token") if name in fields}
    return policy_admin_pb2.ListDecisionsRequest(
        filter=policy_admin_pb2.DecisionFilter(**fields),  # type: ignore[arg-type]
        **paging,  # type: ignore[arg-type]
    )


NOON = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


async def various(logging: Logging) -> None:
    """Six decisions, a minute apart."""
    different: list[dict[str, object]] = [
        {},
        {"subject": "user:bob", "caller": "service:gate"},
        {"domain": "acme", "allowed": False, "rule_id": ""},
        {"resource": "/training/runs/7"},
        {"resource": "/training/runs-of-others", "action": "write"},
        {"rule_id": "another"},
    ]
    await logging.write(
        *(
            logging.entry(at=NOON + timedelta(minutes=number), microseconds=number, **fields)
            for number, fields in enumerate(different)
        )
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"subject": "user:bob"}, [1]),
        ({"caller": "service:gate"}, [1]),
        ({"domain": "acme"}, [2]),
        ({"effect": policy_pb2.EFFECT_DENY}, [2]),
        ({"effect": policy_pb2.EFFECT_ALLOW, "domain": "acme"}, []),
        ({"resource": "/training/runs"}, [5, 3, 2, 1, 0]),
        ({"resource": "/training/runs/"}, [5, 3, 2, 1, 0]),
        ({"resource": "/training"}, [5, 4, 3, 2, 1, 0]),
        ({"action": "write"}, [4]),
        ({"rule_id": "another"}, [5]),
        ({"start_time": NOON + timedelta(minutes=4)}, [5, 4]),
        ({"end_time": NOON + timedelta(minutes=1)}, [0]),
        ({"subject": "nul\0"}, []),
    ],
)
async def test_filters(
    stub: Stub, logging: Logging, fields: dict[str, object], expected: list[int]
):
    """Each field of the filter, the newest decision first."""
    await various(logging)
    response = await stub.ListDecisions(listing(**fields))
    assert [each.microseconds for each in response.decisions] == expected


async def test_record_tells_the_whole_decision(stub: Stub, logging: Logging, database: Database):
    """Who asked, for whom, what came out, by which rule, from where, how fast."""
    keeping = Logging(database, {"keep_attributes": True})
    entry = keeping.entry(attributes={"replicas": 3.0}, source="memory")
    await keeping.write(entry)
    (record,) = (await stub.ListDecisions(listing())).decisions
    assert record.time.ToDatetime(UTC) == entry.at
    assert record == policy_admin_pb2.DecisionRecord(
        decision_id=entry.decision_id,
        time=record.time,
        caller="user:admin",
        request=policy_pb2.EvaluateRequest(
            subject="user:ann",
            domain="aegis",
            resource="/training/runs",
            action="read",
            attributes={"replicas": 3.0},
        ),
        attributes_digest=record.attributes_digest,
        effect=policy_pb2.EFFECT_ALLOW,
        rule_id="ann-reads",
        revision=1,
        source=policy_pb2.DECISION_SOURCE_MEMORY,
        microseconds=7,
    )
    assert len(record.attributes_digest) == 16


async def test_pages_continue_each_other(stub: Stub, logging: Logging):
    """Also through decisions of one and the same moment, and while new ones come."""
    await logging.write(*(logging.entry(at=NOON) for _ in range(7)))
    found, token = [], ""
    for _ in range(4):
        page = await stub.ListDecisions(listing(page_size=2, page_token=token))
        found += [each.decision_id for each in page.decisions]
        token = page.next_page_token
        late = Logging(logging.database)
        await late.write(late.entry())
    assert token == ""
    assert len(set(found)) == 7


async def test_page_fits_into_a_message(stub: Stub, database: Database):
    """However much is kept of each decision."""
    logging = Logging(database, {"keep_attributes": True})
    entries = [logging.entry(attributes={"text": "x" * 8000}) for _ in range(600)]
    await logging.write(*entries)
    first = await stub.ListDecisions(listing(page_size=1000))
    assert 100 < len(first.decisions) < 600
    rest = listing(page_size=1000, page_token=first.next_page_token)
    second = await stub.ListDecisions(rest)
    together = [each.decision_id for page in (first, second) for each in page.decisions]
    newest = [entry.decision_id for entry in reversed(entries)]
    assert together == newest[: len(together)]
    exported = [
        each.decision_id
        async for page in stub.ExportDecisions(policy_admin_pb2.ExportDecisionsRequest())
        for each in page.decisions
    ]
    assert exported == newest[::-1]


@pytest.mark.parametrize("token", ["x", "bm90aGluZw", "\udcff".encode("utf-8", "replace").decode()])
async def test_invented_page_token_is_refused(stub: Stub, token: str):
    """PAGE_TOKEN_INVALID."""
    error = await refusal(stub.ListDecisions(listing(page_token=token)))
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_token_of_another_query_is_refused(stub: Stub, logging: Logging):
    """PAGE_TOKEN_INVALID: a token continues its own query only."""
    await logging.write(logging.entry(), logging.entry())
    page = await stub.ListDecisions(listing(page_size=1))
    request = listing(page_token=page.next_page_token, subject="user:bob")
    assert (await refusal(stub.ListDecisions(request))).reason == "PAGE_TOKEN_INVALID"


async def test_export_is_in_order_and_a_sample_is_told_by_the_ids(stub: Stub, logging: Logging):
    """One in four: whose id says so, and everybody can say which those are."""
    await logging.write(*(logging.entry() for _ in range(1300)))
    pages = [page async for page in stub.ExportDecisions(policy_admin_pb2.ExportDecisionsRequest())]
    every = [each.decision_id for page in pages for each in page.decisions]
    assert len(pages) == 3
    assert every == sorted(every)
    assert len(set(every)) == 1300
    request = policy_admin_pb2.ExportDecisionsRequest(one_in=4)
    sample = [
        each.decision_id async for page in stub.ExportDecisions(request) for each in page.decisions
    ]
    assert sample == [
        each
        for each in every
        if int.from_bytes(hashlib.sha256(uuid.UUID(each).bytes).digest()[:4], "big") % 4 == 0
    ]
    assert 200 < len(sample) < 450


IN_FORCE = """
p, user:ann, *, /training/runs, read, , allow, ann-reads
p, user:big, *, /training/runs, read, "ctx.replicas > 2", allow, big-reads
"""
DRAFT = """
p, user:ann, *, /training/runs, read, , deny, ann-not
p, user:bob, *, /training/runs, read, , allow, bob-reads
p, role:operator, *, /training/runs, read, , allow, operators-read
p, user:big, *, /training/runs, read, "ctx.replicas > 2", allow, big-reads
"""


def draft(**fields: object) -> policy_admin_pb2.SimulatePolicyRequest:
    return policy_admin_pb2.SimulatePolicyRequest(
        draft=policy_admin_pb2.PolicyDraft(csv=DRAFT),
        **fields,  # type: ignore[arg-type]
    )


async def test_simulation_tells_whom_a_draft_would_decide_otherwise(
    stub: Stub, logging: Logging, database: Database
):
    """Both ways, the most frequent first; roles of the directory and kept attributes count."""
    keeping = Logging(database, {"keep_attributes": True})
    big = {"attributes": {"replicas": 3.0}, "subject": "user:big", "allowed": False, "rule_id": ""}
    await keeping.write(
        *(keeping.entry() for _ in range(3)),
        *(keeping.entry(subject="user:bob", allowed=False, rule_id="") for _ in range(5)),
        keeping.entry(subject="user:held"),
        keeping.entry(**big),
        keeping.entry(subject="user:nobody", allowed=False, rule_id=""),
    )
    response = await stub.SimulatePolicy(draft())
    assert (response.requests, response.decisions, response.without_attributes) == (5, 11, 0)
    allow, deny = policy_pb2.EFFECT_ALLOW, policy_pb2.EFFECT_DENY
    assert [
        (each.request.subject, each.before, each.before_rule_id, each.after, each.after_rule_id)
        for each in response.flips
    ] == [
        ("user:bob", deny, "", allow, "bob-reads"),
        ("user:ann", allow, "ann-reads", deny, "ann-not"),
        ("user:big", deny, "", allow, "big-reads"),
    ]
    assert [each.times for each in response.flips] == [5, 3, 1]
    assert (response.flipped_requests, response.flipped_decisions) == (3, 9)
    assert response.flips[0].last_asked.ToDatetime(UTC) <= now()


async def test_simulation_says_nothing_of_what_hangs_on_attributes_nobody_kept(
    stub: Stub, logging: Logging
):
    """The rules in force do not give that answer without them either: counted, and left out."""
    await logging.write(
        logging.entry(subject="user:big", attributes={"replicas": 3.0}, rule_id="big-reads"),
        logging.entry(subject="user:big", attributes={"replicas": 9.0}, rule_id="big-reads"),
        logging.entry(subject="user:ann", attributes={"replicas": 3.0}, rule_id="ann-reads"),
    )
    response = await stub.SimulatePolicy(draft())
    assert (response.requests, response.without_attributes) == (3, 2)
    (flip,) = response.flips
    assert (flip.request.subject, flip.after) == ("user:ann", policy_pb2.EFFECT_DENY)


async def test_simulation_is_bounded(stub: Stub, logging: Logging):
    """The newest requests of the period, and not more of them than wanted."""
    await logging.write(
        logging.entry(at=NOON, resource="/old"),
        *(logging.entry(resource=f"/r/{number}") for number in range(5)),
    )
    assert (await stub.SimulatePolicy(draft(limit=2))).requests == 2
    since = NOON + timedelta(minutes=1)
    assert (await stub.SimulatePolicy(draft(since=since))).requests == 5
    assert (await stub.SimulatePolicy(draft())).requests == 6


async def test_bad_draft_is_refused(stub: Stub):
    """POLICY_INVALID."""
    request = policy_admin_pb2.SimulatePolicyRequest(
        draft=policy_admin_pb2.PolicyDraft(csv="p, nothing\n")
    )
    assert (await refusal(stub.SimulatePolicy(request))).reason == "POLICY_INVALID"


def reported(**fields: object) -> policy_pb2.ReportedDecision:
    return policy_pb2.ReportedDecision(
        **{  # type: ignore[arg-type]
            "request": policy_pb2.EvaluateRequest(
                subject="user:ann", resource="/training/runs", action="read"
            ),
            "effect": policy_pb2.EFFECT_ALLOW,
            "rule_id": "ann-reads",
            "revision": 3,
            "decision_id": str(uuid.uuid4()),
            "microseconds": 9,
            "time": now(),
        }
        | fields
    )


async def send(logging: Logging, *decisions: policy_pb2.ReportedDecision) -> None:
    await report(
        logging.log,
        decisions,
        caller="service:edge",
        entries_of=lambda request: (request.domain or "aegis", {}),
        now=now(),
    )


async def test_report_is_stored_before_it_is_answered(logging: Logging, database: Database):
    """Under its caller's name, as decided locally; a second time changes nothing."""
    decision = reported()
    async with logging.running():
        await send(logging, decision)
        await send(logging, decision, reported(effect=policy_pb2.EFFECT_DENY, rule_id=""))
        rows = await stored(database)
    assert [(row.caller, row.source, row.effect) for row in rows] == [
        ("service:edge", 4, 1),
        ("service:edge", 4, 2),
    ]
    assert (str(rows[0].decision_id), rows[0].domain, rows[0].revision) == (
        decision.decision_id,
        "aegis",
        3,
    )


@pytest.mark.parametrize("off", [timedelta(days=-2), timedelta(hours=1)])
async def test_report_from_another_time_is_refused(logging: Logging, off: timedelta):
    """FIELD_INVALID: it would land in a day that is closed, or not yet there."""
    with pytest.raises(InvalidArgument) as caught:
        await send(logging, reported(), reported(time=now() + off))
    assert caught.value.violations[0].field == "decisions[1].time"
    assert logging.log.waiting == 0


async def test_report_that_cannot_be_stored_is_refused(
    logging: Logging, monkeypatch: pytest.MonkeyPatch
):
    """DECISION_LOG_FULL after a bounded wait: nobody writes here."""
    monkeypatch.setattr("aegis_server.policy.decisionlog.log._TAKE_SECONDS", 0.05)
    with pytest.raises(ResourceExhausted) as caught:
        await send(logging, reported())
    assert caught.value.reason == "DECISION_LOG_FULL"
