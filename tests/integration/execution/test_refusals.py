"""What SubmitAction refuses before there is an action: in its order, recorded, and never sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.factories import flipped, restart, scale
from tests.integration.execution.house import AUTOPILOT, NINA, OLGA, House, obliges, refusal

from aegis import dsse
from aegis.envelope import sign_action, sign_approval
from aegis.errors import AegisError
from aegis.v1.envelope_pb2 import ActionRequest, SignedEnvelope
from aegis_executor.admission import Admission, Limits


def signed(house: House, **told: Any) -> SignedEnvelope:
    """The autopilot's request, but for what is told."""
    said = {
        "key": house.keys.requests[AUTOPILOT],
        "issuer": AUTOPILOT,
        "audience": "aegis",
        "now": house.clock(),
    } | told
    return sign_action(said.pop("spec", restart("shop", "web-1")), **said)


def of_another_type(house: House) -> SignedEnvelope:
    """A decision is no request."""
    envelope = signed(house)
    return dsse.sign(dsse.DECISION_TYPE, envelope.payload, house.keys.requests[AUTOPILOT])


def with_a_field_too_many(house: House) -> SignedEnvelope:
    """Signed by somebody who knows more than we do."""
    payload = signed(house).payload + b"\xf8\x3e\x01"
    return dsse.sign(dsse.REQUEST_TYPE, payload, house.keys.requests[AUTOPILOT])


def in_another_name(house: House) -> SignedEnvelope:
    """Signed with the autopilot's key."""
    return signed(house, issuer=OLGA)


def later(seconds: int) -> Callable[[House], SignedEnvelope]:
    """Signed at another time."""
    return lambda house: signed(house, now=house.clock() + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (of_another_type, "ENVELOPE_MALFORMED"),
        (lambda house: signed(house, key=house.keys.decision), "SIGNING_KEY_UNUSABLE"),
        (lambda house: flipped(signed(house)), "SIGNATURE_INVALID"),
        (with_a_field_too_many, "PAYLOAD_INVALID"),
        (lambda house: signed(house, spec=scale("shop", "web", -1)), "PAYLOAD_INVALID"),
        (lambda house: signed(house, audience="elsewhere"), "AUDIENCE_MISMATCH"),
        (in_another_name, "SIGNER_PEER_MISMATCH"),
        (later(10), "REQUEST_FROM_FUTURE"),
        (later(-70), "REQUEST_EXPIRED"),
    ],
)
@pytest.mark.refuses(
    "ENVELOPE_MALFORMED",
    "SIGNING_KEY_UNUSABLE",
    "SIGNATURE_INVALID",
    "PAYLOAD_INVALID",
    "AUDIENCE_MISMATCH",
    "SIGNER_PEER_MISMATCH",
    "REQUEST_FROM_FUTURE",
    "REQUEST_EXPIRED",
)
async def test_unproven_request_is_refused_recorded_and_leaves_no_action(
    house: House, make: Callable[[House], SignedEnvelope], reason: str
):
    """One record and one count each; the executor hears nothing."""
    envelope = make(house)
    error = await refusal(house.as_(AUTOPILOT).submit(envelope))
    assert error.reason == reason
    assert [record.reason for record in await house.records()] == [reason]
    assert house.refused(reason) == 1
    assert (await house.as_(AUTOPILOT).call("ListActions")).actions == []
    assert house.executor.sent == []


@pytest.mark.refuses("SIGNER_PEER_MISMATCH")
async def test_good_request_brought_by_another_is_refused(house: House):
    """Who took it from the wire has no use for it."""
    error = await refusal(house.as_(OLGA).submit(house.sign()))
    assert error.reason == "SIGNER_PEER_MISMATCH"
    assert house.executor.sent == []


async def test_earlier_check_is_told_first(house: House):
    """Wrong in every way at once: nothing is parsed before it is proven."""
    wrong = flipped(with_a_field_too_many(house))
    assert (await refusal(house.as_(AUTOPILOT).submit(wrong))).reason == "SIGNATURE_INVALID"
    wrong = signed(house, audience="elsewhere", now=house.clock() - timedelta(hours=1))
    assert (await refusal(house.as_(AUTOPILOT).submit(wrong))).reason == "AUDIENCE_MISMATCH"


@pytest.mark.refuses("AUDIT_UNAVAILABLE")
async def test_refusal_that_cannot_be_recorded_is_told_as_that(house: House):
    """Nobody probes the doors unseen."""
    envelope = flipped(house.sign())
    await house.database.close()
    assert (await refusal(house.as_(AUTOPILOT).submit(envelope))).reason == "AUDIT_UNAVAILABLE"


async def test_refused_nonce_is_not_spent(house: House):
    """Or whoever sees an envelope could burn it with a broken copy."""
    envelope = house.sign()
    assert (await refusal(house.as_(AUTOPILOT).submit(flipped(envelope)))).reason
    action = await house.as_(AUTOPILOT).submit(envelope)
    assert action.request_id == ActionRequest.FromString(envelope.payload).request_id


async def test_approval_written_into_the_database_is_no_approval(house: House, database_url: str):
    """Its owner can make the server send it; the executor looks for the signature."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    forged = sign_approval(
        action.action_digest,
        key=Ed25519PrivateKey.generate(),
        action_id=action.action_id,
        approver=NINA,
        group="role:oncall",
        now=house.clock(),
    )
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute(
            """
            insert into aegis.action_approval
                (action_id, approver, kind, step, group_name, reason, detached, envelope, at)
            values (%s, %s, 'approval', 1, 'role:oncall', '', false, %s, now())
            """,
            (action.action_id, NINA, forged.SerializeToString()),
        )
        await owner.execute(
            """
            update aegis.action set state = %s, execute_expires_at = now() + interval '5 minutes'
            where action_id = %s
            """,
            (type(action).STATE_APPROVED, action.action_id),
        )
    await house.as_(AUTOPILOT).submit(house.again(action))
    (sent,) = house.executor.sent
    admission = Admission(
        trust=house.keys.trust(),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"shop"}), frozenset({"restart_pod"}), 10),
        clock=house.clock,
    )
    with pytest.raises(AegisError) as caught:
        admission.admit(sent.request, sent.decision, sent.approvals, peer="server:aegis")
    assert caught.value.reason == "APPROVALS_INSUFFICIENT"
