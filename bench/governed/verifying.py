"""Figure 1: how long the checks before a change take when the cluster takes no time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from governed.farm import NAMESPACE, scale
from governed.figures import Report, Span
from governed.house import AUTOPILOT, Asker, House, decision_for

from aegis import algorithms, dsse
from aegis.channel import connect
from aegis.envelope import sign_action, sign_approval
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.trust import ACTION_APPROVAL, ACTION_REQUEST, POLICY_DECISION, TrustBundle, TrustedKey
from aegis.v1.envelope_pb2 import ActionRequest, ApprovalStep, SignedEnvelope
from aegis_executor.admission import Admission, Limits

# Signed ahead, so that signing is not timed; less than the minute they are good for.
BATCH = 200
# What the default budget lets happen in the day that guards look back upon: 30 an hour.
DAY = 720
# Deeds of the last day that ended well, evenly spread.
_HISTORY = """
with made as (
    insert into aegis_executor.intent
        (request_id, action_id, action, issuer, action_digest, key_id, nonce, request, decision,
         intent_at, kind, namespace, name, incident_id, approved, break_glass, epoch)
    select gen_random_uuid(), 'a-' || n, 'scale_deployment', 'automation:autopilot',
           sha256(int8send(n)), 'bench', substring(sha256(int8send(n)) for 16), %(request)s,
           %(request)s, now() - n * interval '1 day' / %(size)s, 'deployment', 'demo', 'old-' || n,
           '', false, false, 1
    from generate_series(1, %(size)s) n
    returning request_id, intent_at
), ended as (
    insert into aegis_executor.ending
    select request_id, 'APPLIED', '', '', '{}', intent_at + interval '1 second' from made
)
insert into aegis_executor.verdict
select request_id, 'VERIFIED', '', '', '{}', intent_at + interval '2 seconds' from made
"""
Call = tuple[float, float]


class Alone:
    """An admission without any process around it, and people's keys to sign for it."""

    def __init__(self) -> None:
        self._keys = {
            AUTOPILOT: (Ed25519PrivateKey.generate(), ACTION_REQUEST),
            "server:aegis": (Ed25519PrivateKey.generate(), POLICY_DECISION),
            "user:ada": (Ed25519PrivateKey.generate(), ACTION_APPROVAL),
            "user:bob": (Ed25519PrivateKey.generate(), ACTION_APPROVAL),
        }
        now = datetime.now(UTC)
        trust = TrustBundle(
            tuple(
                TrustedKey(
                    key_id=algorithms.key_id(key.public_key()),
                    usage=usage,
                    owner=owner,
                    public_key=key.public_key(),
                    not_before=now - timedelta(days=1),
                    not_after=now + timedelta(days=1),
                )
                for owner, (key, usage) in self._keys.items()
            )
        )
        self._admission = Admission(
            trust=trust,
            name="executor:local",
            cluster="sandbox",
            audience="aegis",
            limits=Limits(frozenset({NAMESPACE}), frozenset({"scale_deployment"}), 10),
            clock=lambda: datetime.now(UTC),
        )

    def measure(self, approvals: int, seconds: float) -> list[float]:
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for signed in [self._signed(number, approvals) for number in range(BATCH)]:
                request, decision, *approved = signed
                began = time.perf_counter()
                self._admission.admit(request, decision, approved, peer="server:aegis")
                taken.append(time.perf_counter() - began)
        return taken

    def _signed(self, number: int, approvals: int) -> list[SignedEnvelope]:
        asker, decider = self._keys[AUTOPILOT][0], self._keys["server:aegis"][0]
        spec = scale(f"web-{number}", 3)
        request = sign_action(spec, key=asker, issuer=AUTOPILOT, audience="aegis")
        decision = decision_for(request, action_id=f"a-{number}")
        if approvals:
            step = ApprovalStep(step=1, group="role:oncall", needed=approvals, detached=True)
            decision.steps.append(step)
        return [
            request,
            dsse.sign(dsse.DECISION_TYPE, decision.SerializeToString(), decider),
            *(
                sign_approval(
                    decision.action_digest,
                    key=self._keys[person][0],
                    action_id=decision.action_id,
                    approver=person,
                    group="role:oncall",
                )
                for person in ("user:ada", "user:bob")[:approvals]
            ),
        ]


async def over_mtls(house: House, seconds: float) -> list[Call]:
    """Returns when each dry run was asked for and when it was answered; one at a time."""
    calls: list[Call] = []
    asker = Asker(house.home)
    end = time.perf_counter() + seconds
    async with connect(house.executor_address, house.identity("server"), retries=False) as channel:
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        while time.perf_counter() < end:
            messages = []
            for number in range(BATCH // 4):
                request = asker.request(scale(f"web-{number}", 3), mode=ActionRequest.MODE_DRY_RUN)
                decision = asker.decision(request)
                messages.append(
                    executor_pb2.ExecuteActionRequest(request=request, decision=decision)
                )
            for message in messages:
                began = time.perf_counter()
                execution = (await stub.ExecuteAction(message, timeout=10)).execution
                calls.append((began, time.perf_counter()))
                if execution.state != executor_pb2.Execution.STATE_DRY_RUN:
                    raise SystemExit(f"not carried out: {execution}")
    return calls


def _until(step: str, calls: Sequence[Call], spans: Sequence[Span]) -> list[float]:
    """Returns how long after it was asked for each call's `step` had ended."""
    ends = iter(sorted(ended for name, _, ended in spans if name == step))
    found, ended = [], next(ends, None)
    for began, answered in calls:
        while ended is not None and ended < began:
            ended = next(ends, None)
        if ended is not None and ended <= answered:
            found.append(ended - began)
    return found


def _within(step: str, calls: Sequence[Call], spans: Sequence[Span]) -> list[float]:
    first, last = calls[0][0], calls[-1][1]
    return [e - b for name, b, e in spans if name == step and first <= b and e <= last]


async def _remember(house: House) -> None:
    request = sign_action(
        scale("old", 3), key=Ed25519PrivateKey.generate(), issuer=AUTOPILOT, audience="aegis"
    ).payload
    async with await psycopg.AsyncConnection.connect(house.owner_url) as connection:
        await connection.execute(_HISTORY, {"request": request, "size": DAY})


async def verify(report: Report, house: House, *, seconds: float, rounds: int) -> None:
    """`house` is one with a scripted cluster."""
    alone = Alone()
    for approvals in (0, 2):
        measured = [alone.measure(approvals, seconds) for _ in range(rounds)]
        report.latency(f"verify, steps 3-11 in process, {approvals} approvals", measured)
    await over_mtls(house, 1)
    for history in (0, DAY):
        if history:
            await _remember(house)
            await asyncio.sleep(1)
        calls = [await over_mtls(house, seconds) for _ in range(rounds)]
        spans = await house.spans()
        suffix = f", {history} deeds in the last day" if history else ", no history"
        until = [_until("claim", each, spans) for each in calls]
        report.latency(f"verify, mTLS to INTENT{suffix}", until, aim="aim: p99 5 ms")
        for step in ("admit", "stored", "enter", "claim"):
            report.latency(
                f"  of that {step}{suffix}", [_within(step, each, spans) for each in calls]
            )
        answered = [[end - began for began, end in each] for each in calls]
        report.latency(f"  dry run to its answer, written down{suffix}", answered)
