"""The semantic audit: a record can be whole and still tell of what must not happen.

* an action that was applied was decided before, by a signed ALLOW for exactly that request
* where the decision demands approvals, enough others than who asked had given them, signed
* two others answered for every broken glass, within a day
* the executor wrote its intent down before it acted, and acted at most once for a request
* what one log says was applied, the other one knows of
* every update in an aggregated model was accepted by the review
* what is missing beside a record was erased by somebody who said so
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar, NamedTuple

from google.protobuf.message import DecodeError

from aegis import dsse
from aegis.errors import AegisError
from aegis.trust import (
    ACTION_APPROVAL,
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    POLICY_DECISION,
    TrustBundle,
)
from aegis.v1 import audit_pb2, envelope_pb2

SERVER = "aegis-server"
EXECUTOR = "aegis-executor"
_INDEX = re.compile("[0-9]{1,18}")
_APPROVAL_DETAILS = ("step", "group", "detached", "action_digest")
_REVIEWS_NEEDED = 2
_REVIEWED_WITHIN = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A record that tells of what must not happen, or that something is missing for it."""

    log_id: str
    index: int
    problem: str


@dataclass(slots=True)
class _Action:
    """What both logs say of one action."""

    decided: bool = False
    request_id: str = ""
    intent: bool = False
    executed: list[int] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)
    issuer: str = ""
    approvals: set[_Approval] = field(default_factory=set)
    # Where and when the glass was broken, and who answered for it.
    glass: tuple[int, datetime] | None = None
    reviewers: set[str] = field(default_factory=set)


class _Approval(NamedTuple):
    """What a record says that somebody approved."""

    approver: str
    step: str
    group: str
    detached: str
    action_digest: str


class Story:
    """Collects what records tell, of one log or of several."""

    KINDS: ClassVar[frozenset[int]] = frozenset(
        {
            audit_pb2.AUDIT_KIND_ACTION,
            audit_pb2.AUDIT_KIND_EXECUTION,
            audit_pb2.AUDIT_KIND_REVIEW,
            audit_pb2.AUDIT_KIND_RUN,
            audit_pb2.AUDIT_KIND_ERASURE,
            audit_pb2.AUDIT_KIND_CHECKPOINT_PEER,
        }
    )

    def __init__(self, trust: TrustBundle) -> None:
        self._trust = trust
        self._actions: dict[str, _Action] = {}
        # Which action a request was applied as.
        self._applied: dict[str, str] = {}
        self._accepted: set[str] = set()
        # Judged where nobody could tell who the odd ones are: the model may be their median.
        self._fell_back: set[str] = set()
        self._erased: set[int] = set()
        self._gone: list[tuple[str, int]] = []
        self._last = datetime.min.replace(tzinfo=UTC)
        self._broken: list[BrokenRule] = []

    def gone(self, log_id: str, index: int) -> None:
        """Notes that an attachment of a record is not there any more."""
        self._gone.append((log_id, index))

    def tell(
        self, log_id: str, record: audit_pb2.AuditRecord, attachments: Mapping[str, bytes]
    ) -> None:
        """Takes the next record of a log, with what is still beside it."""
        match record.kind:
            case audit_pb2.AUDIT_KIND_ACTION if record.outcome in ("approval", "review"):
                self._of_person(log_id, record, attachments)
            case audit_pb2.AUDIT_KIND_ACTION:
                self._of_action(log_id, record, attachments)
            case audit_pb2.AUDIT_KIND_EXECUTION:
                self._of_execution(log_id, record)
            case audit_pb2.AUDIT_KIND_REVIEW if record.outcome == "accepted":
                self._accepted.add(record.subject_id)
            case audit_pb2.AUDIT_KIND_REVIEW if record.details["fallback"]:
                self._fell_back.add(record.subject_id)
            case audit_pb2.AUDIT_KIND_RUN if record.action == "complete_round":
                self._of_round(log_id, record)
            # Only the server erases, and only beside its own records.
            case audit_pb2.AUDIT_KIND_ERASURE if log_id == SERVER:
                if _INDEX.fullmatch(index := record.details["index"]):
                    self._erased.add(int(index))

    def _of_round(self, log_id: str, record: audit_pb2.AuditRecord) -> None:
        may = self._accepted | (self._fell_back if record.details["fallback"] else set())
        for update_id in filter(None, record.details["update_ids"].split(",")):
            if update_id not in may:
                text = f"update {update_id} is in the model and was never accepted"
                self._broken.append(BrokenRule(log_id, record.index, text))

    def broken_rules(self, complete: set[str]) -> Iterator[BrokenRule]:
        """Yields everything that must not be; `complete` are the logs that were told to the end."""
        yield from self._broken
        for log_id, index in self._gone:
            if log_id != SERVER or index not in self._erased:
                yield BrokenRule(log_id, index, "what was beside it is gone, and nobody erased it")
        if SERVER in complete:
            yield from self._unanswered()
        if {SERVER, EXECUTOR} <= complete:
            yield from self._disagreements()

    def _unanswered(self) -> Iterator[BrokenRule]:
        for action_id, action in self._actions.items():
            if action.glass is None or len(action.reviewers) >= _REVIEWS_NEEDED:
                continue
            index, when = action.glass
            if self._last - when > _REVIEWED_WITHIN:
                count = len(action.reviewers)
                text = f"{action_id} broke the glass, and {count} of {_REVIEWS_NEEDED} answered"
                yield BrokenRule(SERVER, index, text)

    def _disagreements(self) -> Iterator[BrokenRule]:
        for action_id, action in self._actions.items():
            if action.applied and not action.executed:
                text = f"{action_id} was applied, but the executor does not know of it"
                yield BrokenRule(SERVER, action.applied[0], text)
            if action.executed and not action.decided:
                text = f"{action_id} was carried out, but the server never decided it"
                yield BrokenRule(EXECUTOR, action.executed[0], text)

    def _of_person(
        self, log_id: str, record: audit_pb2.AuditRecord, attachments: Mapping[str, bytes]
    ) -> None:
        """Takes an approval, or somebody's answer for a broken glass."""
        action = self._actions.setdefault(record.subject_id, _Action())
        self._note_time(record)
        if record.outcome == "review":
            if record.actor != action.issuer:
                action.reviewers.add(record.actor)
            return
        told = (record.details[name] for name in _APPROVAL_DETAILS)
        approval = _Approval(record.actor, *told)
        if problem := self._fault_of_approval(record, approval, attachments):
            self._broken.append(BrokenRule(log_id, record.index, problem))
        else:
            action.approvals.add(approval)

    def _note_time(self, record: audit_pb2.AuditRecord) -> None:
        try:
            self._last = max(self._last, record.time.ToDatetime(UTC))
        except (ValueError, OverflowError):
            return

    def _of_action(
        self, log_id: str, record: audit_pb2.AuditRecord, attachments: Mapping[str, bytes]
    ) -> None:
        action = self._actions.setdefault(record.subject_id, _Action())
        self._note_time(record)
        if record.outcome == "dispatched":
            action.decided, action.request_id = True, record.details["request_id"]
            action.issuer = record.actor
            problem = self._fault_of_decision(record, attachments.get("request"))
            if problem := problem or self._fault_of_approvals(action, record):
                self._broken.append(BrokenRule(log_id, record.index, problem))
        elif record.outcome == "applied":
            if not action.decided:
                text = f"{record.subject_id} was applied without a decision"
                self._broken.append(BrokenRule(log_id, record.index, text))
            action.applied.append(record.index)
            if len(action.applied) > 1:
                text = f"{record.subject_id} was applied twice"
                self._broken.append(BrokenRule(log_id, record.index, text))
            asked = action.request_id
            first = self._applied.setdefault(asked, record.subject_id) if asked else ""
            if first not in ("", record.subject_id):
                text = f"request {asked} was applied as {first} and as {record.subject_id}"
                self._broken.append(BrokenRule(log_id, record.index, text))

    def _of_execution(self, log_id: str, record: audit_pb2.AuditRecord) -> None:
        action = self._actions.setdefault(record.subject_id, _Action())
        if record.outcome == "intent":
            if action.intent:
                text = f"{record.subject_id} was begun twice"
                self._broken.append(BrokenRule(log_id, record.index, text))
            action.intent = True
        elif record.outcome == "applied":
            if not action.intent:
                text = f"{record.subject_id} was carried out without an intent"
                self._broken.append(BrokenRule(log_id, record.index, text))
            action.executed.append(record.index)
            if len(action.executed) > 1:
                text = f"{record.subject_id} was carried out twice"
                self._broken.append(BrokenRule(log_id, record.index, text))

    def _fault_of_decision(
        self, record: audit_pb2.AuditRecord, request: bytes | None
    ) -> str | None:
        """Returns what is wrong with the decision a record holds, and with its request."""
        decision = next((p.content for p in record.evidence if p.name == "decision"), b"")
        try:
            when = record.time.ToDatetime(UTC)
            payload = self._opened(decision, dsse.DECISION_TYPE, POLICY_DECISION, when)
            allowed = envelope_pb2.ActionDecision.FromString(payload)
            if allowed.action_id != record.subject_id:
                return "its decision is for another action"
            if request is None:
                return None
            asked = self._opened(request, dsse.REQUEST_TYPE, ACTION_REQUEST, when)
            spec = envelope_pb2.ActionRequest.FromString(asked).spec
        except (AegisError, DecodeError, ValueError, OverflowError) as error:
            return f"its decision or its request is not signed by a key that counts: {error}"
        bound = (allowed.request_sha256, allowed.action_digest)
        if bound != (hashlib.sha256(asked).digest(), dsse.action_digest(spec)):
            return "its decision is for another request"
        return None

    def _fault_of_approvals(self, action: _Action, record: audit_pb2.AuditRecord) -> str | None:
        """Returns which approvals are missing for a decision that was found good."""
        envelope = next(p.content for p in record.evidence if p.name == "decision")
        signed = envelope_pb2.SignedEnvelope.FromString(envelope)
        decision = envelope_pb2.ActionDecision.FromString(signed.payload)
        if decision.break_glass:
            action.glass = record.index, record.time.ToDatetime(UTC)
            return None
        for step in decision.steps:
            given = {
                each.approver
                for each in action.approvals
                if each[1:3] == (str(step.step), step.group)
                and each.action_digest == decision.action_digest.hex()
                and (each.detached == "true" or not step.detached)
            }
            given.discard(decision.subject)
            if len(given) < step.needed:
                return f"it was sent with {len(given)} of {step.needed} of {step.group}"
        return None

    def _fault_of_approval(
        self,
        record: audit_pb2.AuditRecord,
        told: _Approval,
        attachments: Mapping[str, bytes],
    ) -> str | None:
        """Returns what is wrong with what somebody signed, or the server that saw them approve."""
        if not any(each.name == "approval" for each in record.attachments):
            return "nobody signed this approval"
        envelope = attachments.get("approval")
        if envelope is None:
            return None
        usage = ACTION_APPROVAL if told.detached == "true" else APPROVAL_ATTESTATION
        try:
            when = record.time.ToDatetime(UTC)
            payload = self._opened(envelope, dsse.APPROVAL_TYPE, usage, when)
            approval = envelope_pb2.ActionApproval.FromString(payload)
        except (AegisError, DecodeError, ValueError, OverflowError) as error:
            return f"its approval is not signed by a key that counts: {error}"
        signed = told._replace(
            approver=approval.approver,
            step=str(approval.step),
            group=approval.group,
            action_digest=approval.action_digest.hex(),
        )
        if (signed, approval.action_id) != (told, record.subject_id):
            return "its approval is for something else"
        return None

    def _opened(self, envelope: bytes, kind: str, usage: str, when: datetime) -> bytes:
        signed = envelope_pb2.SignedEnvelope.FromString(envelope)
        payload, _ = dsse.verify(signed, kind, self._trust.finder(usage, when))
        return payload
