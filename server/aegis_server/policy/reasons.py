"""Why, and who may do what, as it travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegis.errors import FailedPrecondition
from aegis.v1 import policy_pb2
from aegis_policy import Engine, RequestError, to_csv
from aegis_policy.explain import NotCompiled, Permission, Trace, explain, permitted_to, who_may
from aegis_server.policy.question import Question
from aegis_server.policy.wire import DEFAULT_DOMAIN, bad


def explanation(engine: Engine, question: Question, revision: int) -> policy_pb2.ExplainResponse:
    """Returns why a question, with the roles its subject holds, is answered as it is.

    Raises `InvalidArgument` (FIELD_INVALID), `FailedPrecondition` (POLICY_NOT_COMPILED).
    """
    try:
        told = explain(
            engine,
            subject=question.subject,
            domain=question.domain,
            resource=question.resource,
            action=question.action,
            attributes=question.attributes,
            roles=question.roles,
        )
    except RequestError as error:
        raise bad(f"request.{error.field}", error.expected) from None
    except NotCompiled:
        raise _not_compiled() from None
    decision = policy_pb2.EvaluateResponse(
        effect=policy_pb2.EFFECT_ALLOW if told.decision.allowed else policy_pb2.EFFECT_DENY,
        rule_id=told.decision.rule_id,
        revision=revision,
        source=policy_pb2.DECISION_SOURCE_ENGINE,
    )
    if told.decision.valid_until is not None:
        decision.valid_until.FromDatetime(told.decision.valid_until)
    return policy_pb2.ExplainResponse(
        decision=decision,
        roles=told.roles,
        matched=map(_trace, told.matched),
        failed=map(_trace, told.failed),
        would_allow=told.would_allow,
    )


def permissions(
    engine: Engine,
    request: policy_pb2.ListPermittedRequest,
    *,
    held: Mapping[str, Sequence[str]],
    roles: Sequence[str],
) -> list[Permission]:
    """Returns what a subject, which holds `roles`, may do, or who of all may do it.

    Raises as `explanation`.
    """
    domain = request.domain or DEFAULT_DOMAIN
    try:
        if request.subject:
            return permitted_to(
                engine,
                request.subject,
                domain,
                resource=request.resource,
                action=request.action,
                roles=roles,
            )
        return who_may(engine, domain, resource=request.resource, action=request.action, held=held)
    except RequestError as error:
        raise bad(error.field, error.expected) from None
    except NotCompiled:
        raise _not_compiled() from None


def permission_message(each: Permission) -> policy_pb2.Permission:
    """Returns a permission as it is sent."""
    return policy_pb2.Permission(
        subject=each.subject,
        resource=each.resource,
        action=each.action,
        condition=each.condition,
        rule_id=each.rule_id,
        role_path=each.role_path,
        denied_by=each.denied_by,
    )


def _trace(trace: Trace) -> policy_pb2.RuleTrace:
    row = trace.row
    return policy_pb2.RuleTrace(
        rule_id=row.rule_id,
        rule=to_csv([row.line()]).removesuffix("\n"),
        effect=policy_pb2.EFFECT_DENY if row.deny else policy_pb2.EFFECT_ALLOW,
        role_path=trace.role_path,
        condition=row.condition.source if row.condition else "",
        outcome=trace.outcome,
        values=trace.values,
    )


def _not_compiled() -> FailedPrecondition:
    return FailedPrecondition(
        "POLICY_NOT_COMPILED",
        "the policy has a model of its own, which PyCasbin evaluates; it gives no reasons",
    )
