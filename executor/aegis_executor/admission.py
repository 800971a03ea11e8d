"""The numbered checks between a request and the cluster.

The server made the same checks before. They are made again because the executor does not believe
the server: it holds public keys only, of those who ask and of those who decide, and limits of its
own that no decision can widen. Steps 1 and 2 (peer, size, deadline) are the doors' and the
service's; 12 (guards) and 13 (claim) follow in `executions.py`, 14 to 17 in `changing.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aegis import dsse
from aegis.envelope import MAX_SKEW, OpenedRequest, moment, open_action, parse_signed
from aegis.errors import AegisError, PermissionDenied
from aegis.serving.doors import validate
from aegis.trust import POLICY_DECISION, TrustBundle, TrustedKey
from aegis.v1 import envelope_pb2
from aegis_executor import approvals as people
from aegis_executor.approvals import Agreement, Demand
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Kind, Remedy, Standing
from aegis_executor.catalogue.restart_pod import RestartPod
from aegis_executor.catalogue.scale_deployment import ScaleDeployment

_DECISION_LIFE_MAX = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Limits:
    """What this executor does at all, whoever allowed it."""

    namespaces: frozenset[str]
    actions: frozenset[str]
    replicas_max: int
    nodes: Container[str] = frozenset()
    # See `RestartPod`.
    delete_unready: bool = False
    # Actions that need so many approvals by the approvers' own keys, whatever was decided.
    detached_approvals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed, with everything its execution needs."""

    request_id: str
    nonce: bytes
    issuer: str
    action_id: str
    action_digest: bytes
    spec: envelope_pb2.ActionSpec
    remedy: Remedy
    standing: Standing
    # Everything but the change.
    dry_run: bool
    execute_not_after: datetime
    request_key: TrustedKey
    decision_key: TrustedKey
    # The exact bytes that were signed: the evidence.
    request: bytes
    decision: bytes
    request_envelope: bytes
    decision_envelope: bytes
    approval_envelopes: tuple[bytes, ...] = ()
    agreement: Agreement = field(default_factory=Agreement)


class Admission:
    """Checks for one executor (`executor:local`) of one cluster."""

    def __init__(
        self,
        *,
        trust: TrustBundle,
        name: str,
        cluster: str,
        audience: str,
        limits: Limits,
        clock: Callable[[], datetime],
    ) -> None:
        self._trust = trust
        self._name = name
        self._cluster = cluster
        self._audience = audience
        self._limits = limits
        self._clock = clock

    def admit(
        self,
        request: envelope_pb2.SignedEnvelope,
        decision: envelope_pb2.SignedEnvelope,
        approvals: Sequence[envelope_pb2.SignedEnvelope] = (),
        *,
        peer: str,
    ) -> Admitted:
        """Returns what may be carried out for `peer`.

        Raises the errors of `ExecutorService.ExecuteAction`, in its order.
        """
        now = self._clock()
        # 3–8: envelope, key, signature, form, control plane, owner, age.
        opened = open_action(
            request, trust=self._trust, audience=self._audience, now=now, validate=validate
        )
        # 7: the cluster is a part of the address.
        self._check_cluster(opened.spec)
        # 9: the decision.
        allowed, key = self._open_decision(decision, now)
        if key.owner != peer:
            raise _no_decision("its key does not belong to the peer that sent it")
        self._check_binding(allowed, opened)
        self._check_age(allowed, now)
        # 10: who has to have agreed.
        agreement = self._agree(opened, allowed, approvals, peer, now)
        # 11: our own limits.
        remedy = self.limited(opened.spec)
        return Admitted(
            # In the journal's spelling, or a sweep would not know that it is still going on.
            request_id=str(uuid.UUID(opened.request.request_id)),
            nonce=opened.request.nonce,
            issuer=opened.request.issuer,
            action_id=allowed.action_id,
            action_digest=opened.action_digest,
            spec=opened.spec,
            remedy=remedy,
            standing=Standing(approved=agreement.approved, break_glass=opened.request.break_glass),
            dry_run=opened.request.mode == envelope_pb2.ActionRequest.MODE_DRY_RUN,
            execute_not_after=moment(allowed.execute_not_after),
            request_key=opened.key,
            decision_key=key,
            request=request.payload,
            decision=decision.payload,
            request_envelope=request.SerializeToString(),
            decision_envelope=decision.SerializeToString(),
            approval_envelopes=tuple(each.SerializeToString() for each in approvals),
            agreement=agreement,
        )

    def plannable(self, payload: bytes) -> tuple[envelope_pb2.ActionSpec, Remedy]:
        """Returns what may be planned, of the bytes of a spec.

        Raises `InvalidArgument` (PAYLOAD_INVALID) and what the limits raise.
        """
        spec = parse_signed(payload, envelope_pb2.ActionSpec, validate)
        self._check_cluster(spec)
        return spec, self.limited(spec)

    def limited(self, spec: envelope_pb2.ActionSpec) -> Remedy:
        """11: returns what a spec asks for, inside our own limits.

        Raises `InvalidArgument` (PAYLOAD_INVALID) and `PermissionDenied` (NAMESPACE_NOT_ALLOWED,
        ACTION_NOT_ENABLED, BOUNDS_EXCEEDED).
        """
        remedy = of_spec(spec, delete_unready=self._limits.delete_unready)
        self.check_limits(remedy)
        return remedy

    def own_demand(self, verb: str) -> int:
        """Returns how many have to approve with keys of their own, whatever was decided."""
        return self._limits.detached_approvals.get(verb, 0)

    def check_limits(self, remedy: Remedy) -> None:
        """11: what takes a change back has to keep them too; raises as `limited`."""
        limits, place = self._limits, remedy.place
        if place.kind is not Kind.NODE and place.namespace not in limits.namespaces:
            raise PermissionDenied(
                "NAMESPACE_NOT_ALLOWED", f"this executor does not touch {place.namespace}"
            )
        if remedy.verb not in limits.actions:
            raise PermissionDenied("ACTION_NOT_ENABLED", f"this executor does not {remedy.verb}")
        if place.kind is Kind.NODE and place.name not in limits.nodes:
            raise PermissionDenied(
                "ACTION_NOT_ENABLED", f"this executor does not {remedy.verb} {place.name}"
            )
        # Zero replicas is an outage, not a remedy.
        if isinstance(remedy, ScaleDeployment) and not 1 <= remedy.replicas <= limits.replicas_max:
            raise PermissionDenied(
                "BOUNDS_EXCEEDED", f"replicas must be between 1 and {limits.replicas_max}"
            )
        # With grace 0 the API server forgets a pod that may still be running.
        if isinstance(remedy, RestartPod) and remedy.grace_seconds == 0:
            raise PermissionDenied("BOUNDS_EXCEEDED", "grace_seconds must be at least 1")

    def recheck(self, admitted: Admitted) -> None:
        """16: immediately before mutating, what time may have changed.

        A plan that waited is a stale plan. Raises `PermissionDenied` (DECISION_EXPIRED).
        """
        now = self._clock()
        if now > admitted.execute_not_after:
            raise PermissionDenied("DECISION_EXPIRED", "the decision expired before the change")
        if not (admitted.request_key.usable(now) and admitted.decision_key.usable(now)):
            raise PermissionDenied("DECISION_EXPIRED", "a signing key ended before the change")
        agreed = admitted.agreement
        if agreed.expires_at is not None and now > agreed.expires_at:
            raise PermissionDenied("DECISION_EXPIRED", "an approval expired before the change")
        if not all(key.usable(now) for key in agreed.keys):
            raise PermissionDenied("DECISION_EXPIRED", "an approver's key ended before the change")

    def _open_decision(
        self, envelope: envelope_pb2.SignedEnvelope, now: datetime
    ) -> tuple[envelope_pb2.ActionDecision, TrustedKey]:
        finder = self._trust.finder(POLICY_DECISION, now)
        try:
            payload, key = dsse.verify(envelope, dsse.DECISION_TYPE, finder)
            return parse_signed(payload, envelope_pb2.ActionDecision, validate), key
        except AegisError as error:
            raise _no_decision(error.message, check=error.reason) from error

    def _agree(
        self,
        opened: OpenedRequest,
        decision: envelope_pb2.ActionDecision,
        approvals: Sequence[envelope_pb2.SignedEnvelope],
        peer: str,
        now: datetime,
    ) -> Agreement:
        broken = opened.request.break_glass
        if broken and not decision.break_glass:
            raise _no_decision("it does not let anybody break the glass", check="BREAK_GLASS")
        given = people.opened(approvals, trust=self._trust, peer=peer, now=now, validate=validate)
        # The policy's demand falls with the glass; ours is there for the day the server is stolen.
        detached = self.own_demand(str(opened.spec.WhichOneof("action")))
        return people.agree(
            Demand(() if broken else decision.steps, detached),
            given,
            action_digest=opened.action_digest,
            action_id=decision.action_id,
            requester=opened.request.issuer,
        )

    def _check_binding(self, decision: envelope_pb2.ActionDecision, opened: OpenedRequest) -> None:
        bound = (
            ("another spec", decision.action_digest, opened.action_digest),
            ("another request", decision.request_sha256, opened.payload_sha256),
            ("another subject", decision.subject, opened.request.issuer),
            ("another executor", decision.executor, self._name),
            ("another cluster", decision.cluster, self._cluster),
        )
        for what, decided, asked in bound:
            if decided != asked:
                raise _no_decision(f"it is for {what}")

    def _check_age(self, decision: envelope_pb2.ActionDecision, now: datetime) -> None:
        try:
            issued, ends = moment(decision.issue_time), moment(decision.execute_not_after)
        except AegisError as error:
            raise _no_decision(error.message, check=error.reason) from error
        if issued > now + MAX_SKEW:
            raise _no_decision("it was issued in the future")
        if not timedelta(0) < ends - issued <= _DECISION_LIFE_MAX:
            raise _no_decision("it is good for more than 5 minutes, or for no time at all")
        if now > ends:
            raise PermissionDenied("DECISION_EXPIRED", "the decision may no longer be executed")

    def _check_cluster(self, spec: envelope_pb2.ActionSpec) -> None:
        if spec.target.cluster != self._cluster:
            raise PermissionDenied("AUDIENCE_MISMATCH", f"this executor serves {self._cluster}")


def _no_decision(why: str, *, check: str = "BINDING") -> PermissionDenied:
    return PermissionDenied(
        "DECISION_INVALID", f"not a decision for this request: {why}", check=check
    )
