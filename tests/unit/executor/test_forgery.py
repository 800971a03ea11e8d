"""Who can forge what, row by row of the table in docs/execution.md.

Each thief has what the row says, and a certificate that the executor takes calls from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.factories import Signers, restart, rollback, scale

from aegis import algorithms, dsse
from aegis.envelope import sign_approval
from aegis.errors import AegisError
from aegis.trust import (
    ACTION_APPROVAL,
    APPROVAL_ATTESTATION,
    AUDIT_CHECKPOINT,
    TrustBundle,
    TrustedKey,
)
from aegis.v1.envelope_pb2 import ActionRequest, ActionSpec, ApprovalStep, SignedEnvelope
from aegis_executor.admission import Admission, Limits
from aegis_executor.catalogue import REMEDIES

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIFE = (NOW - timedelta(days=1), NOW + timedelta(days=1))
PLAIN = restart("demo", "web-1")
SIGNED_FOR = ApprovalStep(step=1, group="role:owners", needed=1, detached=True)


def fresh() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


# Everybody's keys; a thief who did not get one signs with a key of their own.
HONEST = Signers.fresh()
ATTESTOR, MIA, SEAL = fresh(), fresh(), fresh()


def known(key: Ed25519PrivateKey, usage: str, owner: str) -> TrustedKey:
    return TrustedKey(algorithms.key_id(key.public_key()), usage, owner, key.public_key(), *LIFE)


ADMISSION = Admission(
    trust=TrustBundle(
        (
            *HONEST.trust(NOW).keys,
            known(ATTESTOR, APPROVAL_ATTESTATION, "server:aegis"),
            known(MIA, ACTION_APPROVAL, "user:mia"),
            known(SEAL, AUDIT_CHECKPOINT, "log:aegis-executor"),
        )
    ),
    name="executor:local",
    cluster="sandbox",
    audience="aegis",
    limits=Limits(
        frozenset({"demo"}), frozenset(REMEDIES), 10, detached_approvals={"rollback_deployment": 1}
    ),
    clock=lambda: NOW,
)


@dataclass(frozen=True)
class Thief:
    """Signs with what was stolen."""

    asker: Ed25519PrivateKey = field(default_factory=fresh)
    decider: Ed25519PrivateKey = field(default_factory=fresh)
    attestor: Ed25519PrivateKey = field(default_factory=fresh)
    approver: Ed25519PrivateKey = field(default_factory=fresh)

    def attempt(
        self,
        spec: ActionSpec = PLAIN,
        *,
        request: SignedEnvelope | None = None,
        steps: Sequence[ApprovalStep] = (),
        break_glass: bool = False,
    ) -> str:
        """Returns why the executor refuses it; empty when any approval of the thief's helps."""
        signers = Signers(asker=self.asker, decider=self.decider)
        request = request or signers.request(spec, now=NOW, break_glass=break_glass)
        decision = signers.decision(
            request, now=NOW, action_id="a-1", steps=steps, break_glass=break_glass
        )
        digest = dsse.action_digest(ActionRequest.FromString(request.payload).spec)
        # As the server that saw Mia approve, and as Mia.
        approvals = [
            sign_approval(
                digest,
                key=key,
                action_id="a-1",
                approver="user:mia",
                group=steps[0].group if steps else "role:owners",
                now=NOW,
            )
            for key in (self.attestor, self.approver)
        ]
        reasons = []
        for given in ([], *([each] for each in approvals)):
            try:
                ADMISSION.admit(request, decision, given, peer="server:aegis")
            except AegisError as error:
                reasons.append(error.reason)
            else:
                return ""
        return reasons[0]


REQUEST_KEY = Thief(asker=HONEST.asker)
POLICY_KEY = Thief(decider=HONEST.decider)
EXECUTOR = Thief(asker=SEAL, decider=SEAL, attestor=SEAL, approver=SEAL)
DATABASE = Thief()
CONTROL_PLANE = Thief(decider=HONEST.decider, attestor=ATTESTOR)
EVERYTHING_BUT_APPROVERS = Thief(HONEST.asker, HONEST.decider, ATTESTOR)


def genuine(spec: ActionSpec = PLAIN, **told: object) -> SignedEnvelope:
    """What the autopilot itself signed a moment ago."""
    return HONEST.request(spec, now=NOW, **told)


def test_stolen_request_key_does_nothing_without_a_decision():
    """It asks as the autopilot, and the policy answers the autopilot."""
    assert REQUEST_KEY.attempt() == "DECISION_INVALID"
    assert REQUEST_KEY.attempt(break_glass=True) == "DECISION_INVALID"


def test_stolen_policy_key_asks_for_nothing():
    """A decision without somebody's request is about nothing."""
    assert POLICY_KEY.attempt() == "SIGNING_KEY_UNUSABLE"


def test_stolen_policy_key_allows_what_was_really_asked():
    """That is what it is for: the theft shows in the audit log, not here."""
    assert POLICY_KEY.attempt(request=genuine()) == ""


def test_stolen_policy_key_gives_no_approval():
    """Neither as the server that saw somebody nor as that somebody."""
    step = ApprovalStep(step=1, group="role:oncall", needed=1)
    assert POLICY_KEY.attempt(request=genuine(), steps=[step]) == "APPROVALS_INSUFFICIENT"
    own = genuine(rollback("demo", "web"))
    assert POLICY_KEY.attempt(request=own) == "APPROVALS_INSUFFICIENT"


@pytest.mark.parametrize("request_", [None, genuine()], ids=["own", "genuine"])
def test_stolen_executor_mints_nothing(request_: SignedEnvelope | None):
    """Its one signing key seals its log; to the executor next door it is good for nothing."""
    wanted = "SIGNING_KEY_UNUSABLE" if request_ is None else "DECISION_INVALID"
    assert EXECUTOR.attempt(request=request_) == wanted


def test_executor_is_given_no_key_that_could_sign_more():
    """The settings name the private keys it reads: of its certificate, and of its log."""
    settings = (ROOT / "executor/aegis_executor/settings.py").read_text()
    assert set(re.findall(r'"(AEGIS_[A-Z_]*KEY)"', settings)) == {
        "AEGIS_TLS_KEY",
        "AEGIS_AUDIT_KEY",
    }


def test_database_owner_mints_nothing():
    """No key that signs anything of this is in a database."""
    assert DATABASE.attempt() == "SIGNING_KEY_UNUSABLE"
    assert DATABASE.attempt(request=genuine()) == "DECISION_INVALID"


def test_database_owner_sends_nothing_of_yesterday_again():
    """What is stored there is signed, and too old."""
    then = NOW - timedelta(minutes=2)
    asked = HONEST.request(PLAIN, now=then)
    decided = HONEST.decision(asked, now=then)
    with pytest.raises(AegisError) as caught:
        ADMISSION.admit(asked, decided, peer="server:aegis")
    assert caught.value.reason == "REQUEST_EXPIRED"


def test_stolen_control_plane_asks_for_nothing_by_itself():
    """Requests are signed by who asks, with keys the server never has."""
    assert CONTROL_PLANE.attempt() == "SIGNING_KEY_UNUSABLE"


def test_stolen_control_plane_does_small_things_within_the_executors_limits():
    """Together with a key that asks; limits, budgets and the kill switch are the executor's own."""
    thief = EVERYTHING_BUT_APPROVERS
    assert thief.attempt() == ""
    assert thief.attempt(scale("demo", "web", 11)) == "BOUNDS_EXCEEDED"
    assert thief.attempt(restart("payments", "ledger-1")) == "NAMESPACE_NOT_ALLOWED"


@pytest.mark.parametrize("break_glass", [False, True])
def test_stolen_control_plane_does_nothing_that_needs_approvers_own_keys(break_glass: bool):
    """The executor demands them by itself, whatever was decided; a broken glass changes nothing."""
    spec = rollback("demo", "web")
    thief = EVERYTHING_BUT_APPROVERS
    for steps in ([], [SIGNED_FOR]):
        reason = thief.attempt(spec, steps=steps, break_glass=break_glass)
        assert reason == "APPROVALS_INSUFFICIENT"


def test_with_an_approvers_key_it_is_done():
    """So the refusals above are about that key and nothing else."""
    thief = Thief(HONEST.asker, HONEST.decider, ATTESTOR, MIA)
    assert thief.attempt(rollback("demo", "web"), steps=[SIGNED_FOR]) == ""
