"""Signed things for tests: an asker, a decider, and what they sign."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import algorithms, dsse
from aegis.envelope import sign_action
from aegis.trust import (
    ACTION_REQUEST,
    POLICY_DECISION,
    TrustBundle,
    TrustedKey,
    load_private_key,
)
from aegis.v1 import envelope_pb2
from aegis.v1.envelope_pb2 import ActionSpec, SignedEnvelope


def restart(namespace: str, name: str, *, uid: str = "", grace: int | None = None) -> ActionSpec:
    """A spec that restarts a pod."""
    action = ActionSpec.RestartPod(grace_seconds=grace)
    return ActionSpec(target=_target(namespace, name, uid), restart_pod=action)


def scale(namespace: str, name: str, replicas: int, *, uid: str = "") -> ActionSpec:
    """A spec that scales a deployment."""
    action = ActionSpec.ScaleDeployment(replicas=replicas)
    return ActionSpec(target=_target(namespace, name, uid), scale_deployment=action)


def rollback(namespace: str, name: str, template_hash: str = "", *, uid: str = "") -> ActionSpec:
    """A spec that rolls a deployment back."""
    action = ActionSpec.RollbackDeployment(pod_template_hash=template_hash)
    return ActionSpec(target=_target(namespace, name, uid), rollback_deployment=action)


def restart_rollout(namespace: str, name: str, *, uid: str = "") -> ActionSpec:
    """A spec that restarts a whole deployment."""
    action = ActionSpec.RestartRollout()
    return ActionSpec(target=_target(namespace, name, uid), restart_rollout=action)


def cordon(name: str, *, uid: str = "") -> ActionSpec:
    """A spec that keeps new pods away from a node."""
    return ActionSpec(target=_target("", name, uid), cordon_node=ActionSpec.CordonNode())


def uncordon(name: str, *, uid: str = "") -> ActionSpec:
    """A spec that lets pods onto a node again."""
    return ActionSpec(target=_target("", name, uid), uncordon_node=ActionSpec.UncordonNode())


def _target(namespace: str, name: str, uid: str) -> ActionSpec.Target:
    return ActionSpec.Target(cluster="sandbox", namespace=namespace, name=name, uid=uid)


class Signers:
    """The autopilot, who asks, and the server, who decides."""

    def __init__(self, *, asker: Ed25519PrivateKey, decider: Ed25519PrivateKey) -> None:
        self.asker = asker
        self.decider = decider

    @classmethod
    def fresh(cls) -> Signers:
        """New keys."""
        return cls(asker=Ed25519PrivateKey.generate(), decider=Ed25519PrivateKey.generate())

    @classmethod
    def of_home(cls, pki: Path) -> Signers:
        """The keys of a development home."""
        return cls(
            asker=load_private_key(pki / "autopilot-signing.key"),
            decider=load_private_key(pki / "decision.key"),
        )

    def trust(self, now: datetime, **changes: Any) -> TrustBundle:
        """The bundle that lists both; `changes` go into the asker's key."""
        life = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=1)}
        asker, decider = self.asker.public_key(), self.decider.public_key()
        return TrustBundle(
            (
                TrustedKey(
                    **{
                        "key_id": algorithms.key_id(asker),
                        "usage": ACTION_REQUEST,
                        "owner": "automation:autopilot",
                        "public_key": asker,
                        **life,
                        **changes,
                    }
                ),
                TrustedKey(
                    key_id=algorithms.key_id(decider),
                    usage=POLICY_DECISION,
                    owner="server:aegis",
                    public_key=decider,
                    **life,
                ),
            )
        )

    def request(self, spec: ActionSpec, **changes: Any) -> SignedEnvelope:
        """A request the executor would take."""
        told = {"issuer": "automation:autopilot", "audience": "aegis"} | changes
        return sign_action(spec, key=self.asker, **told)

    def resigned(self, request: envelope_pb2.ActionRequest) -> SignedEnvelope:
        """A request that was changed, signed by its asker."""
        return dsse.sign(dsse.REQUEST_TYPE, request.SerializeToString(), self.asker)

    def decision(
        self,
        request: SignedEnvelope,
        *,
        now: datetime | None = None,
        life: timedelta = timedelta(seconds=60),
        key: Ed25519PrivateKey | None = None,
        unknown_field: bool = False,
        **changes: Any,
    ) -> SignedEnvelope:
        """The server's ALLOW for exactly this request; `changes` replace fields of it."""
        asked = envelope_pb2.ActionRequest.FromString(request.payload)
        told = {
            "decision_id": "d-1",
            "action_digest": dsse.action_digest(asked.spec),
            "request_sha256": hashlib.sha256(request.payload).digest(),
            "subject": asked.issuer,
            "action_id": f"a-{uuid.uuid4().hex[:12]}",
            "executor": "executor:local",
            "cluster": "sandbox",
            "policy_revision": 1,
            "rule_id": "allow-autopilot",
        } | changes
        decision = envelope_pb2.ActionDecision(**told)
        issued = now or datetime.now(UTC)
        decision.issue_time.FromDatetime(issued)
        decision.execute_not_after.FromDatetime(issued + life)
        payload = decision.SerializeToString()
        if unknown_field:
            payload += b"\xf8\x3e\x01"  # field 1007, varint 1
        return dsse.sign(dsse.DECISION_TYPE, payload, key or self.decider)


def flipped(envelope: SignedEnvelope) -> SignedEnvelope:
    """The envelope with one bit of its payload turned."""
    payload = bytearray(envelope.payload)
    payload[len(payload) // 2] ^= 1
    changed = SignedEnvelope()
    changed.CopyFrom(envelope)
    changed.payload = bytes(payload)
    return changed
