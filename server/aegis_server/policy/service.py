"""PolicyService: wire to values and back, and the record of every answer."""

from __future__ import annotations

import asyncio
import math

from google.protobuf import struct_pb2

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.doors import Context, current_call
from aegis.v1 import audit_pb2, policy_pb2, policy_pb2_grpc
from aegis_policy import RequestError, check_request
from aegis_server.policy.decisions import Decision, Decisions
from aegis_server.policy.question import Question, digest_of
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.policy.store import Revision

_DEFAULT_DOMAIN = "aegis"
_ATTRIBUTES_MAX = 64
_DEPTH_MAX = 16
_SOURCES = {
    "engine": policy_pb2.DECISION_SOURCE_ENGINE,
    "memory": policy_pb2.DECISION_SOURCE_MEMORY,
    "redis": policy_pb2.DECISION_SOURCE_REDIS,
}


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """Answers questions about permission, and takes new rules."""

    def __init__(self, *, decisions: Decisions, revisions: Revisions, audit: AuditLog) -> None:
        self._decisions = decisions
        self._revisions = revisions
        self._audit = audit

    async def Evaluate(
        self, request: policy_pb2.EvaluateRequest, context: Context
    ) -> policy_pb2.EvaluateResponse:
        """Decides, records, answers: an answer nobody could look up later is not given."""
        question = _question(request)
        decision = await self._decisions.decide(question)
        await self._audit.record(_entry(question, decision))
        return _response(decision)

    async def BatchEvaluate(
        self, request: policy_pb2.BatchEvaluateRequest, context: Context
    ) -> policy_pb2.BatchEvaluateResponse:
        """As Evaluate, for many questions and one revision."""
        questions = [
            _question(item, f"requests[{index}].") for index, item in enumerate(request.requests)
        ]
        decisions = await self._decisions.decide_all(questions)
        # All of them wait for the same few commits; each is awaited, whatever the others say.
        records = await asyncio.gather(
            *(
                self._audit.record(_entry(question, decision))
                for question, decision in zip(questions, decisions, strict=True)
            ),
            return_exceptions=True,
        )
        for failure in records:
            if failure is not None:
                raise failure
        return policy_pb2.BatchEvaluateResponse(
            responses=[_response(decision) for decision in decisions]
        )

    async def GetPolicy(
        self, request: policy_pb2.GetPolicyRequest, context: Context
    ) -> policy_pb2.GetPolicyResponse:
        """One revision with its rules."""
        revision, csv = await self._revisions.get(request.revision)
        return policy_pb2.GetPolicyResponse(revision=_revision(revision), csv=csv)

    async def ImportPolicy(
        self, request: policy_pb2.ImportPolicyRequest, context: Context
    ) -> policy_pb2.ImportPolicyResponse:
        """Replaces the rules."""
        revision = await self._revisions.import_rules(
            Change(
                csv=request.csv,
                actor=current_call().caller.subject,
                reason=request.reason,
                expected_revision=request.expected_revision,
                validate_only=request.validate_only,
            )
        )
        return policy_pb2.ImportPolicyResponse(revision=_revision(revision))


def _question(request: policy_pb2.EvaluateRequest, prefix: str = "") -> Question:
    """Reads a question; raises `InvalidArgument` (FIELD_INVALID) naming the field."""
    fields = request.attributes.fields
    if len(fields) > _ATTRIBUTES_MAX:
        raise _bad(f"{prefix}attributes", f"at most {_ATTRIBUTES_MAX} names")
    question = Question(
        subject=request.subject,
        domain=request.domain or _DEFAULT_DOMAIN,
        resource=request.resource,
        action=request.action,
        attributes={
            name: _value(value, f"{prefix}attributes.{name}", _DEPTH_MAX)
            for name, value in fields.items()
        },
    )
    try:
        check_request(question.subject, question.domain, question.resource, question.action)
    except RequestError as error:
        raise _bad(prefix + error.field, error.expected) from None
    return question


def _value(value: struct_pb2.Value, path: str, depth: int) -> object:
    """Returns a Struct's value as Python's, nested at most `depth` deep."""
    kind = value.WhichOneof("kind")
    if depth == 0:
        raise _bad(path, "nested too deep")
    if kind == "number_value":
        # NaN is neither above nor below a bound: it would slip past every rule with a limit.
        if not math.isfinite(value.number_value):
            raise _bad(path, "expected a finite number")
        return value.number_value
    if kind == "list_value":
        return [
            _value(item, f"{path}[{index}]", depth - 1)
            for index, item in enumerate(value.list_value.values)
        ]
    if kind == "struct_value":
        return {
            name: _value(item, f"{path}.{name}", depth - 1)
            for name, item in value.struct_value.fields.items()
        }
    return None if kind in ("null_value", None) else getattr(value, kind)


def _bad(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])


def _entry(question: Question, decision: Decision) -> Entry:
    """Returns the record of an answer: who asked, about whom, and why both may be so.

    Attributes may be personal data, so only their digest is kept.
    """
    call = current_call()
    return Entry(
        kind=audit_pb2.AUDIT_KIND_DECISION,
        actor=call.caller.subject,
        action=question.action,
        resource=question.resource,
        outcome="allow" if decision.allowed else "deny",
        policy_revision=decision.revision,
        rule_id=decision.rule_id,
        subject_id=decision.decision_id,
        details={
            "subject": question.subject,
            "domain": question.domain,
            "attributes_digest": digest_of(question.attributes),
            "source": decision.source,
            "granted_by_rule": call.grant.rule_id,
            "granted_by_revision": str(call.grant.revision),
        },
    )


def _response(decision: Decision) -> policy_pb2.EvaluateResponse:
    response = policy_pb2.EvaluateResponse(
        effect=policy_pb2.EFFECT_ALLOW if decision.allowed else policy_pb2.EFFECT_DENY,
        rule_id=decision.rule_id,
        revision=decision.revision,
        decision_id=decision.decision_id,
        source=_SOURCES[decision.source],
    )
    if decision.valid_until is not None:
        response.valid_until.FromDatetime(decision.valid_until)
    return response


def _revision(revision: Revision) -> policy_pb2.PolicyRevision:
    message = policy_pb2.PolicyRevision(
        revision=revision.number,
        digest=revision.digest,
        actor=revision.actor,
        reason=revision.reason,
        rule_count=revision.rule_count,
    )
    if revision.at is not None:
        message.create_time.FromDatetime(revision.at)
    return message
