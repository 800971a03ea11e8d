"""What an action would do, and whether it would be let through."""

from __future__ import annotations

from aegis import dsse
from aegis.errors import AegisError, FailedPrecondition, FieldViolation, InvalidArgument
from aegis.executor.v1 import executor_pb2
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution import gates, records
from aegis_server.execution.approvals.approvers import Approvers
from aegis_server.execution.approvals.obligations import Answer, Obligations
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.pauses.pausing import Pauses


class Planner:
    """Plans actions; stores nothing but an audit record."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        obligations: Obligations,
        approvers: Approvers,
        pauses: Pauses,
        dispatch: Dispatch,
    ) -> None:
        self._ledger = ledger
        self._obligations = obligations
        self._approvers = approvers
        self._pauses = pauses
        self._dispatch = dispatch

    async def plan(
        self, request: execution_pb2.PlanActionRequest, who: str
    ) -> execution_pb2.PlanActionResponse:
        """Returns the plan for who asks; raises what PlanAction's comment lists."""
        fault = records.fault_of_place(request.spec)
        if fault:
            violation = FieldViolation("spec.target.namespace", fault)
            raise InvalidArgument("FIELD_INVALID", fault, violations=[violation])
        asked = request.spec.SerializeToString()
        tried = await self._dispatch.plan(asked, who)
        if isinstance(tried, AegisError):
            there = [gates.of_refusal(tried, "executor")]
            tried = executor_pb2.PlanExecutionResponse(spec=asked)
        else:
            there = list(tried.gates)
        spec = envelope_pb2.ActionSpec.FromString(tried.spec)
        question = records.question_about(spec, who, request.attributes)
        answer = await self._obligations.ask(question)
        here = await self._gates(spec, who, answer)
        there = [gates.of_executor_plan(each, question, answer.demands) for each in there]
        ready = answer.decision.allowed and gates.all_passed([*here, *there])
        decision = answer.decision
        await self._ledger.note(
            records.planned(
                spec, who, revision=decision.revision, rule_id=decision.rule_id, ready=ready
            )
        )
        return execution_pb2.PlanActionResponse(
            spec=tried.spec,
            action_digest=dsse.action_digest(tried.spec),
            differences=tried.differences,
            allowed=decision.allowed,
            rule_id=decision.rule_id,
            policy_revision=decision.revision,
            steps=[demand.message() for demand in answer.demands],
            gates=[*here, *there],
            ready=ready,
            warnings=tried.warnings,
        )

    async def _gates(
        self, spec: envelope_pb2.ActionSpec, who: str, answer: Answer
    ) -> list[execution_pb2.Gate]:
        async with self._ledger.database.transaction() as connection:
            pause = await self._pauses.holding(
                connection, spec.target.namespace, records.verb_of(spec)
            )
        approvals = gates.of_approvals(answer.demands, ())
        try:
            await self._approvers.require(answer.demands, who)
        except FailedPrecondition as refusal:
            approvals = gates.of_refusal(refusal, "approvals")
        return [gates.of_pause(pause), gates.of_policy(answer.decision), approvals]
