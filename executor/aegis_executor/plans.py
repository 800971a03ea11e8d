"""Plans for who asks: the difference, every gate, and the spec that would have to be signed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from aegis.errors import FailedPrecondition, Unavailable
from aegis.executor.v1 import executor_pb2
from aegis.v1 import execution_pb2
from aegis_executor.admission import Admission
from aegis_executor.guards.wire import gate_of
from aegis_executor.kubernetes import ClusterRefused, ClusterUnreachable, ForbiddenRequest
from aegis_executor.planning import Planned, Planner, filled
from aegis_executor.ports import Asked, Guards


class Plans:
    """Answers PlanExecution; claims and changes nothing."""

    def __init__(self, *, admission: Admission, planner: Planner, guards: Guards) -> None:
        self._admission = admission
        self._planner = planner
        self._guards = guards

    async def plan(
        self, request: executor_pb2.PlanExecutionRequest
    ) -> executor_pb2.PlanExecutionResponse:
        """Returns the plan; raises the errors of `ExecutorService.PlanExecution`."""
        spec, remedy = self._admission.plannable(request.spec)
        try:
            planned = await self._planner.plan(remedy)
        except ClusterRefused as refused:
            raise _refused(refused) from refused
        except ForbiddenRequest as error:
            message = "this executor does not reach that far"
            raise FailedPrecondition("CLUSTER_REFUSED", message) from error
        except ClusterUnreachable as error:
            raise Unavailable("CLUSTER_UNAVAILABLE", "the cluster could not be reached") from error
        asked = Asked(
            # Of nobody yet: nothing that is stored has it.
            request_id=str(uuid.uuid4()),
            verb=remedy.verb,
            place=remedy.place,
            incident_id=spec.incident_id,
            issuer=request.issuer,
            approved=False,
            break_glass=False,
        )
        guards = await self._guards.gates(asked)
        return executor_pb2.PlanExecutionResponse(
            spec=filled(spec, planned),
            differences=_differences(planned),
            gates=[
                *_own(self._admission.own_demand(remedy.verb)),
                *(gate_of(gate) for gate in (*planned.gates, *guards)),
            ],
            warnings=planned.warnings,
        )


def _own(demanded: int) -> Sequence[execution_pb2.Gate]:
    """Our own demand, which no policy knows of: who plans has nobody's approval yet."""
    if not demanded:
        return []
    return [
        execution_pb2.Gate(
            name="approvals.own",
            verdict=execution_pb2.Gate.VERDICT_HELD,
            reason="APPROVALS_INSUFFICIENT",
            message=f"this executor wants {demanded} approved with keys of their own",
        )
    ]


def _refused(refused: ClusterRefused) -> FailedPrecondition:
    return FailedPrecondition(
        "CLUSTER_REFUSED",
        f"the cluster refused: {refused.code} {refused.reason}",
        kubernetes_code=refused.code,
        kubernetes_reason=refused.reason,
        kubernetes_fields=",".join(refused.fields),
    )


def _differences(planned: Planned) -> Sequence[execution_pb2.Difference]:
    return [
        execution_pb2.Difference(path=one.path, before=one.before, after=one.after)
        for one in planned.differences
    ]
