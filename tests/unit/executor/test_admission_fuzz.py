"""Whatever is done to a signed request: refused, for a reason of its own, and never admitted.

`AEGIS_FUZZ_CASES` is how many requests Hypothesis draws for each test (200), and from 1,000 on
every byte gets each of its 255 wrong values instead of two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.factories import Signers
from tests.protobytes import UNKNOWN, messages, with_more

from aegis import algorithms, dsse
from aegis.algorithms import PrivateKey
from aegis.envelope import open_action, sign_approval
from aegis.errors import AegisError
from aegis.executor.v1.executor_pb2 import ExecuteActionRequest
from aegis.serving.doors import validate
from aegis.trust import ACTION_APPROVAL, APPROVAL_ATTESTATION, TrustBundle, TrustedKey
from aegis.v1.envelope_pb2 import (
    ActionApproval,
    ActionDecision,
    ActionRequest,
    ActionSpec,
    ApprovalStep,
    SignedEnvelope,
)
from aegis_executor.admission import Admission, Limits
from aegis_executor.catalogue import REMEDIES

# Every value of every byte takes minutes.
pytestmark = pytest.mark.timeout(1800)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CASES = int(os.environ.get("AEGIS_FUZZ_CASES", "200"))
WRONG = range(1, 256) if CASES >= 1000 else (0x01, 0x80)
fuzzed = settings(
    max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)

SIGNERS = Signers.fresh()
ATTESTOR, MIA = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
LIFE = (NOW - timedelta(days=1), NOW + timedelta(days=1))
# What the bytes of a request alone can be refused for: 3 to 8, and the limits of 11.
OF_REQUEST = {
    "ENVELOPE_MALFORMED",
    "SIGNING_KEY_UNUSABLE",
    "SIGNATURE_INVALID",
    "PAYLOAD_INVALID",
    "AUDIENCE_MISMATCH",
    "SIGNER_PEER_MISMATCH",
    "REQUEST_FROM_FUTURE",
    "REQUEST_EXPIRED",
    "DECISION_INVALID",
    "APPROVALS_INSUFFICIENT",
    "NAMESPACE_NOT_ALLOWED",
    "ACTION_NOT_ENABLED",
    "BOUNDS_EXCEEDED",
}


def known(key: Ed25519PrivateKey, usage: str, owner: str) -> TrustedKey:
    public = key.public_key()
    return TrustedKey(algorithms.key_id(public), usage, owner, public, *LIFE)


TRUST = TrustBundle(
    (
        *SIGNERS.trust(NOW).keys,
        known(ATTESTOR, APPROVAL_ATTESTATION, "server:aegis"),
        known(MIA, ACTION_APPROVAL, "user:mia"),
    )
)
ADMISSION = Admission(
    trust=TRUST,
    name="executor:local",
    cluster="sandbox",
    audience="aegis",
    limits=Limits(frozenset({"demo"}), frozenset(REMEDIES), 10),
    clock=lambda: NOW,
)


@dataclass(frozen=True)
class Sent:
    """What one call to the executor carries."""

    request: SignedEnvelope
    decision: SignedEnvelope
    approvals: tuple[SignedEnvelope, ...]

    def wire(self) -> bytes:
        """The bytes of the call."""
        return ExecuteActionRequest(
            request=self.request, decision=self.decision, approvals=self.approvals
        ).SerializeToString()


def full_spec() -> ActionSpec:
    """A spec with something in every message it can hold."""
    spec = ActionSpec(
        target=ActionSpec.Target(cluster="sandbox", namespace="demo", name="web", uid="d-1"),
        scale_deployment=ActionSpec.ScaleDeployment(replicas=4),
        preconditions=ActionSpec.Preconditions(generation=4, diff_sha256=bytes(range(32))),
        verification=ActionSpec.Verification(
            successes=2,
            on_failure=ActionSpec.Verification.ON_FAILURE_COMPENSATE,
            alerts=[{"labels": {"alertname": "Slow"}, "look_back": {"seconds": 60}}],
            metrics=[{"query": "up", "better": 2, "tolerance": 0.1}],
        ),
        incident_id="inc-7",
    )
    spec.verification.stabilise.seconds = 30
    spec.verification.window.seconds = 300
    return spec


def sent() -> Sent:
    """A call that is admitted, with two approvals that are both needed."""
    return signed_for(
        SIGNERS.request(
            full_spec(), now=NOW, attributes={"incident": "inc-7"}, reason="slow", break_glass=False
        )
    )


def signed_for(request: SignedEnvelope) -> Sent:
    """The call for a request, with a decision and approvals that fit it."""
    spec = ActionRequest.FromString(request.payload).spec
    steps = [
        ApprovalStep(step=1, group="role:oncall", needed=1),
        ApprovalStep(step=2, group="role:owners", needed=1, detached=True),
    ]
    decision = SIGNERS.decision(request, now=NOW, action_id="a-1", steps=steps)
    told = {"action_id": "a-1", "reason": "go", "now": NOW - timedelta(minutes=1)}
    digest = dsse.action_digest(spec)
    return Sent(
        request,
        decision,
        (
            sign_approval(
                digest, key=ATTESTOR, approver="user:noa", group="role:oncall", step=1, **told
            ),
            sign_approval(
                digest, key=MIA, approver="user:mia", group="role:owners", step=2, **told
            ),
        ),
    )


def executor(call: Sent) -> str:
    """Returns why the executor refuses; empty when it does not. Other errors are defects."""
    try:
        admitted = ADMISSION.admit(call.request, call.decision, call.approvals, peer="server:aegis")
    except AegisError as error:
        return error.reason
    assert (admitted.request, admitted.decision) == (call.request.payload, call.decision.payload)
    return ""


def server(request: SignedEnvelope) -> str:
    """Returns why the server does not open a request; empty when it does."""
    try:
        open_action(request, trust=TRUST, audience="aegis", now=NOW, validate=validate)
    except AegisError as error:
        return error.reason
    return ""


def turned(data: bytes) -> Iterator[bytes]:
    """Every byte, turned into others."""
    for place in range(len(data)):
        for wrong in WRONG:
            yield data[:place] + bytes([data[place] ^ wrong]) + data[place + 1 :]


def parsed(data: bytes) -> SignedEnvelope | None:
    """An envelope of the wire; None when gRPC would not even hand it on."""
    try:
        return SignedEnvelope.FromString(data)
    except DecodeError:
        return None


def test_untouched_request_is_admitted():
    """Or nothing below would mean anything."""
    call = sent()
    assert (executor(call), server(call.request)) == ("", "")


PARTS: dict[
    str, tuple[Callable[[Sent], SignedEnvelope], Callable[[Sent, SignedEnvelope], Sent]]
] = {
    "request": (lambda call: call.request, lambda call, new: replace(call, request=new)),
    "decision": (lambda call: call.decision, lambda call, new: replace(call, decision=new)),
    "attested approval": (
        lambda call: call.approvals[0],
        lambda call, new: replace(call, approvals=(new, call.approvals[1])),
    ),
    "detached approval": (
        lambda call: call.approvals[1],
        lambda call, new: replace(call, approvals=(call.approvals[0], new)),
    ),
}
REASONS = {
    "request": {"ENVELOPE_MALFORMED", "SIGNING_KEY_UNUSABLE", "SIGNATURE_INVALID"},
    "decision": {"DECISION_INVALID"},
    "attested approval": {"APPROVALS_INSUFFICIENT"},
    "detached approval": {"APPROVALS_INSUFFICIENT"},
}


@pytest.mark.parametrize("part", PARTS)
def test_turned_byte_of_an_envelope_is_refused(part: str):
    """Payload, type, key id and signature, and the tags and lengths between them."""
    call = sent()
    get, put = PARTS[part]
    envelope, seen = get(call), set()
    for data in turned(envelope.SerializeToString()):
        altered = parsed(data)
        if altered is not None:
            seen.add(executor(put(call, altered)))
            if part == "request":
                seen.add(server(altered))
    assert seen == REASONS[part]


def test_turned_byte_of_the_whole_call_is_refused():
    """Also where it moves an envelope to another field, or out of all of them."""
    reasons = set()
    for data in turned(sent().wire()):
        try:
            call = ExecuteActionRequest.FromString(data)
        except DecodeError:
            continue
        reasons.add(executor(Sent(call.request, call.decision, tuple(call.approvals))))
    assert reasons <= set.union(*REASONS.values())


@pytest.mark.parametrize("part", PARTS)
def test_shortened_envelope_is_refused(part: str):
    """Cut off anywhere, by somebody who cannot sign."""
    call = sent()
    get, put = PARTS[part]
    envelope = get(call)
    whole, payload = envelope.SerializeToString(), envelope.payload
    shorter = [parsed(whole[:length]) for length in range(len(whole))]
    for length in range(len(payload)):
        cut = SignedEnvelope()
        cut.CopyFrom(envelope)
        cut.payload = payload[:length]
        shorter.append(cut)
    seen = {executor(put(call, altered)) for altered in shorter if altered is not None}
    assert seen <= REASONS[part]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("other", PARTS)
def test_envelope_in_the_place_of_another_is_refused(part: str, other: str):
    """A well signed thing is good for what it is, and for nothing else."""
    if part == other:
        return
    call = sent()
    reason = executor(PARTS[part][1](call, PARTS[other][0](call)))
    assert reason in REASONS[part]


def resigned(kind: str, payload: bytes, key: PrivateKey) -> SignedEnvelope:
    return dsse.sign(kind, payload, key)


def of_request(payload: bytes) -> Sent:
    """A call whose request was signed by its own asker, with everything else to fit it."""
    request = resigned(dsse.REQUEST_TYPE, payload, SIGNERS.asker)
    try:
        return signed_for(request)
    except DecodeError:
        return replace(sent(), request=request)


@pytest.mark.parametrize("wire", UNKNOWN)
def test_unknown_field_of_a_request_is_refused_at_every_level(wire: str):
    """Whoever signs may know more than we do; half of what was signed is not carried out."""
    request = ActionRequest.FromString(sent().request.payload)
    paths = []
    for path, payload in with_more(request, UNKNOWN[wire]):
        call = of_request(payload)
        assert (executor(call), server(call.request)) == ("PAYLOAD_INVALID",) * 2, path
        paths.append(path)
    assert {"", "issue_time[0].", "attributes[0].entry"} <= set(paths)


@pytest.mark.parametrize("wire", UNKNOWN)
def test_unknown_field_of_a_spec_is_refused_at_every_level(wire: str):
    """The spec is bytes inside of the request, with a tree of its own."""
    request = ActionRequest.FromString(sent().request.payload)
    paths = []
    for path, spec in with_more(full_spec(), UNKNOWN[wire]):
        request.spec = spec
        call = of_request(request.SerializeToString())
        assert (executor(call), server(call.request)) == ("PAYLOAD_INVALID",) * 2, path
        paths.append(path)
    assert {
        "",
        "target[0].",
        "scale_deployment[0].",
        "preconditions[0].",
        "verification[0].alerts[0].labels[0].entry",
        "verification[0].alerts[0].look_back[0].",
        "verification[0].metrics[0].",
        "verification[0].window[0].",
    } <= set(paths)


@pytest.mark.parametrize("wire", UNKNOWN)
def test_unknown_field_of_a_decision_is_refused_at_every_level(wire: str):
    """A condition this executor is too old for must not be ignored."""
    call = sent()
    decision = ActionDecision.FromString(call.decision.payload)
    for path, payload in with_more(decision, UNKNOWN[wire]):
        new = resigned(dsse.DECISION_TYPE, payload, SIGNERS.decider)
        assert executor(replace(call, decision=new)) == "DECISION_INVALID", path


@pytest.mark.parametrize("wire", UNKNOWN)
def test_unknown_field_of_an_approval_is_refused_at_every_level(wire: str):
    """So must a reservation of an approver."""
    call = sent()
    approval = ActionApproval.FromString(call.approvals[1].payload)
    for path, payload in with_more(approval, UNKNOWN[wire]):
        new = resigned(dsse.APPROVAL_TYPE, payload, MIA)
        call = replace(call, approvals=(call.approvals[0], new))
        assert executor(call) == "APPROVALS_INSUFFICIENT", path


def test_known_number_with_another_wire_type_is_an_unknown_field():
    """Protobuf would read past it."""
    payload = sent().request.payload
    for number in range(1, 12):
        for wire_type, value in ((0, b"\x01"), (5, bytes(4)), (1, bytes(8))):
            if number in (10, 11) and wire_type == 0:
                continue  # that is their type
            tag = bytes([number << 3 | wire_type])
            assert executor(of_request(payload + tag + value)) == "PAYLOAD_INVALID"


def test_shortened_payload_is_refused_or_is_another_request():
    """Signed anew by its asker: what is left is either no request, or one that says less."""
    payload = sent().request.payload
    spec = ActionRequest.FromString(payload).spec
    for length in range(len(payload)):
        reason = executor(of_request(payload[:length]))
        assert reason in OF_REQUEST | {""}
        assert reason or ActionRequest.FromString(payload[:length]).spec == spec


@fuzzed
@given(messages(ActionRequest.DESCRIPTOR))
def test_any_request_message_is_refused(request: Message):
    """Signed by the right key, with anything in it."""
    call = replace(sent(), request=resigned(dsse.REQUEST_TYPE, _bytes(request), SIGNERS.asker))
    assert executor(call) in OF_REQUEST
    assert server(call.request) in OF_REQUEST


@fuzzed
@given(messages(ActionSpec.DESCRIPTOR))
@example(ActionSpec())
def test_any_spec_is_refused_or_good(spec: Message):
    """Everything around it fits, so only the spec can be to blame."""
    request = ActionRequest.FromString(sent().request.payload)
    request.spec = _bytes(spec)
    call = of_request(request.SerializeToString())
    assert executor(call) in OF_REQUEST | {""}
    assert server(call.request) in OF_REQUEST | {""}


@fuzzed
@given(messages(ActionDecision.DESCRIPTOR))
def test_any_decision_message_is_refused(decision: Message):
    """Signed by the server's own key: what does not fit the request decides nothing."""
    new = resigned(dsse.DECISION_TYPE, _bytes(decision), SIGNERS.decider)
    assert executor(replace(sent(), decision=new)) == "DECISION_INVALID"


@fuzzed
@given(messages(ActionApproval.DESCRIPTOR))
def test_any_approval_message_is_refused(approval: Message):
    """Signed by an approver's own key: what does not fit approves nothing."""
    call = sent()
    new = resigned(dsse.APPROVAL_TYPE, _bytes(approval), MIA)
    call = replace(call, approvals=(call.approvals[0], new))
    assert executor(call) == "APPROVALS_INSUFFICIENT"


@fuzzed
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes):
    """Well signed, and no message at all or one by chance."""
    call = of_request(data)
    assert executor(call) in OF_REQUEST
    garbage = resigned(dsse.DECISION_TYPE, data, SIGNERS.decider)
    assert executor(replace(sent(), decision=garbage)) == "DECISION_INVALID"
    other = sent()
    word = resigned(dsse.APPROVAL_TYPE, data, MIA)
    approvals = (other.approvals[0], word)
    assert executor(replace(other, approvals=approvals)) == "APPROVALS_INSUFFICIENT"


@fuzzed
@given(messages(SignedEnvelope.DESCRIPTOR))
def test_any_envelope_is_refused(envelope: Message):
    """In each place of the call."""
    assert isinstance(envelope, SignedEnvelope)
    call = sent()
    for part, (_, put) in PARTS.items():
        assert executor(put(call, envelope)) in REASONS[part]
    assert server(envelope) in REASONS["request"]


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
