"""Opening signed action requests: every refusal, in its order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import algorithms, dsse
from aegis.envelope import open_action, sign_action
from aegis.errors import AegisError
from aegis.serving.doors import validate
from aegis.trust import ACTION_REQUEST, POLICY_DECISION, TrustBundle, TrustedKey
from aegis.v1 import envelope_pb2

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SPEC = envelope_pb2.ActionSpec(
    target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace="shop", name="web-1"),
    restart_pod=envelope_pb2.ActionSpec.RestartPod(),
)


def bundle(*, usage: str = ACTION_REQUEST, owner: str = "automation:autopilot", **times):
    limits = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=1)} | times
    public = KEY.public_key()
    return TrustBundle((TrustedKey(algorithms.key_id(public), usage, owner, public, **limits),))


def signed(**changes):
    arguments = {
        "key": KEY,
        "issuer": "automation:autopilot",
        "audience": "aegis",
        "now": NOW,
    } | changes
    return sign_action(arguments.pop("spec", SPEC), **arguments)


def resigned(change, kind=envelope_pb2.ActionRequest):
    """The same request with its payload changed and signed again by the same key."""
    message = kind.FromString(signed().payload)
    change(message)
    return dsse.sign(dsse.REQUEST_TYPE, message.SerializeToString(), KEY)


def refusal_of(envelope, *, trust=None, now=NOW) -> str:
    with pytest.raises(AegisError) as refusal:
        open_action(envelope, trust=trust or bundle(), audience="aegis", now=now, validate=validate)
    return refusal.value.reason


def test_good_request_opens():
    """What was signed comes back as it was said, with the digest of its exact spec bytes."""
    opened = open_action(signed(), trust=bundle(), audience="aegis", now=NOW, validate=validate)
    assert opened.spec == SPEC
    assert opened.action_digest == dsse.action_digest(SPEC.SerializeToString())


def test_planned_bytes_are_signed_as_they_are():
    """Protobuf has no canonical form: what was planned and approved is never serialised again."""
    # The fields in another order: the same spec, other bytes.
    action, target = SPEC.SerializeToString()[-2:], SPEC.SerializeToString()[:-2]
    planned = action + target
    assert envelope_pb2.ActionSpec.FromString(planned) == SPEC
    assert planned != SPEC.SerializeToString()
    request = envelope_pb2.ActionRequest.FromString(signed(spec=planned).payload)
    assert request.spec == planned


def test_mode_glass_and_incident_are_inside_what_is_signed():
    """What limits or widens an action is under its signature."""
    told = {"mode": envelope_pb2.ActionRequest.MODE_DRY_RUN, "break_glass": True}
    envelope = signed(incident="inc-7", **told)
    opened = open_action(envelope, trust=bundle(), audience="aegis", now=NOW, validate=validate)
    assert (opened.request.mode, opened.request.break_glass) == tuple(told.values())
    assert opened.spec.incident_id == "inc-7"
    assert SPEC.incident_id == ""


def test_planned_bytes_of_another_incident_are_not_signed():
    """The incident is a part of the bytes, and those are not changed."""
    planned = SPEC.SerializeToString()
    with pytest.raises(ValueError, match="inc-7"):
        signed(spec=planned, incident="inc-7")


def test_key_of_another_usage_is_refused():
    """A key for decisions cannot sign requests."""
    assert refusal_of(signed(), trust=bundle(usage=POLICY_DECISION)) == "SIGNING_KEY_UNUSABLE"


@pytest.mark.parametrize(
    "times",
    [
        {"not_after": NOW},
        {"not_before": NOW + timedelta(seconds=1)},
        {"revoked_at": NOW - timedelta(seconds=1)},
    ],
    ids=["expired", "not yet valid", "revoked"],
)
def test_unusable_key_is_refused(times):
    """Outside its validity or after its revocation a key signs nothing."""
    assert refusal_of(signed(), trust=bundle(**times)) == "SIGNING_KEY_UNUSABLE"


def test_payload_that_is_no_request_is_refused():
    """Well signed noise is still noise."""
    envelope = dsse.sign(dsse.REQUEST_TYPE, b"\xff\xff\xff", KEY)
    assert refusal_of(envelope) == "PAYLOAD_INVALID"


def test_field_this_program_does_not_know_is_refused():
    """Half of what was signed is not carried out."""
    payload = signed().payload + b"\xfa\x3f\x01x"
    assert refusal_of(dsse.sign(dsse.REQUEST_TYPE, payload, KEY)) == "PAYLOAD_INVALID"


def test_unknown_field_inside_the_spec_is_refused():
    """The same holds one level down, where the action is."""
    spec = SPEC.SerializeToString() + b"\xfa\x3f\x01x"
    assert refusal_of(resigned(lambda m: setattr(m, "spec", spec))) == "PAYLOAD_INVALID"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "nonce", b"short"),
        lambda m: setattr(m, "request_id", "not-a-uuid"),
        lambda m: m.ClearField("issue_time"),
        lambda m: setattr(m.expire_time, "seconds", 2**62),
        lambda m: setattr(m, "spec", b""),
    ],
    ids=["nonce", "request id", "no issue time", "time out of range", "no spec"],
)
def test_payload_that_breaks_a_constraint_is_refused(change):
    """Signed bytes meet the constraints of the .proto like any other message."""
    assert refusal_of(resigned(change)) == "PAYLOAD_INVALID"


def test_spec_without_an_action_is_refused():
    """A target alone is no action; neither is one whose name is no Kubernetes name."""
    no_action = envelope_pb2.ActionSpec(target=SPEC.target)
    assert refusal_of(signed(spec=no_action)) == "PAYLOAD_INVALID"


def test_request_for_another_control_plane_is_refused():
    """A request signed for staging does nothing in production."""
    assert refusal_of(signed(audience="aegis-staging")) == "AUDIENCE_MISMATCH"


def test_issuer_that_does_not_own_the_key_is_refused():
    """Nobody signs in somebody else's name."""
    assert refusal_of(signed(issuer="user:admin")) == "SIGNER_PEER_MISMATCH"


def test_expired_request_is_refused():
    """Sixty seconds and the allowed skew later it is worth nothing."""
    assert refusal_of(signed(), now=NOW + timedelta(seconds=66)) == "REQUEST_EXPIRED"


def test_request_that_lives_too_long_is_refused():
    """The signer cannot give itself more time than allowed."""
    assert refusal_of(signed(life=timedelta(seconds=61))) == "REQUEST_EXPIRED"


def test_request_from_the_future_is_refused():
    """A clock that runs ahead by more than the skew is not believed."""
    assert refusal_of(signed(now=NOW + timedelta(seconds=6))) == "REQUEST_FROM_FUTURE"


def test_every_flipped_byte_of_a_signed_request_is_refused():
    """No byte of the envelope can change without a typed refusal."""
    raw = signed().SerializeToString()
    for position in range(len(raw)):
        altered = bytearray(raw)
        altered[position] ^= 0x01
        envelope = envelope_pb2.SignedEnvelope()
        try:
            envelope.ParseFromString(bytes(altered))
        except Exception:
            continue
        if envelope.SerializeToString() == raw:
            continue
        assert refusal_of(envelope) in {
            "ENVELOPE_MALFORMED",
            "SIGNING_KEY_UNUSABLE",
            "SIGNATURE_INVALID",
        }
