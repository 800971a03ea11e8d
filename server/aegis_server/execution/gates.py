"""The server's own gates: what an action has to pass here, each with what was compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from aegis.errors import AegisError
from aegis.v1 import execution_pb2
from aegis_server.execution.approvals.counting import Demand, Given, missing
from aegis_server.execution.pauses.store import StoredPause
from aegis_server.execution.states import S
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decision, Question

Gate = execution_pb2.Gate

# The executor's demand for approvals by people's own keys, as it names it in a plan.
OWN_DEMAND = "approvals.own"
# What it lets through when somebody approved.
_OPENED_BY_PEOPLE = frozenset({"SINGLE_REPLICA", "BOUNDS_EXCEEDED"})


def of_pause(pause: StoredPause | None) -> Gate:
    """The kill switch."""
    if pause is None:
        return Gate(name="pause", verdict=Gate.VERDICT_PASSED, message="nobody stopped it")
    gate = Gate(
        name="pause",
        verdict=Gate.VERDICT_HELD,
        reason="EXECUTION_PAUSED",
        message=f"{pause.who} stopped {pause.scope}: {pause.reason}",
    )
    if pause.expires_at is not None:
        gate.retry_time.FromDatetime(pause.expires_at)
    return gate


def of_policy(decision: Decision, name: str = "policy") -> Gate:
    """What the rules say; `name` is "break_glass" for the right to break it."""
    revision = f"revision {decision.revision}"
    if decision.allowed:
        text = f"rule {decision.rule_id} allows it, {revision}"
        return Gate(name=name, verdict=Gate.VERDICT_PASSED, message=text)
    text = f"rule {decision.rule_id} denies it" if decision.rule_id else "no rule allows it"
    return Gate(
        name=name,
        verdict=Gate.VERDICT_REFUSED,
        reason="POLICY_DENIED",
        message=f"{text}, {revision}",
    )


def of_approvals(
    demands: Sequence[Demand], given: Collection[Given], lapsed: Collection[str] = ()
) -> Gate:
    """Who has to approve, and who did; `lapsed` did, and may not speak any more."""
    unmet = missing(demands, given)
    if unmet:
        told = [f"step {each.demand.step}: {each}" for each in unmet]
        if lapsed:
            told.append(f"what {', '.join(sorted(lapsed))} said no longer counts")
        return Gate(
            name="approvals",
            verdict=Gate.VERDICT_HELD,
            reason="APPROVALS_INSUFFICIENT",
            message="; ".join(told),
        )
    text = f"{len(given)} approved" if demands else "nobody has to approve"
    return Gate(name="approvals", verdict=Gate.VERDICT_PASSED, message=text)


def of_executor_plan(gate: Gate, question: Question, demands: Sequence[Demand]) -> Gate:
    """What the executor would hold it by: where only people open it, also how they get asked.

    The executor knows whether somebody approved, and the policy whom to ask. Where no rule asks
    anybody, such a gate would never open, so it tells the line that is missing.
    """
    own = gate.name == OWN_DEMAND
    if gate.verdict != Gate.VERDICT_HELD or not (own or gate.reason in _OPENED_BY_PEOPLE):
        return gate
    told = Gate()
    told.CopyFrom(gate)
    if any(each.detached or not own for each in demands):
        told.message += "; approvals open it"
        return told
    name = "without_signed_N_oncall" if own else "without_1_oncall"
    _, _, _, kind, *_ = question.resource.split("/")
    where = question.resource if kind == "nodes" else f"{question.resource.rsplit('/', 2)[0]}/**"
    row = f"p, {question.subject}, *, {where}, {name}, , deny, needs-oncall"
    told.message += f"; approvals open it, and no rule asks for any: aegis policy add '{row}'"
    return told


def of_refusal(refusal: AegisError, name: str) -> Gate:
    """A check that said no."""
    return Gate(
        name=name,
        verdict=Gate.VERDICT_REFUSED,
        reason=refusal.reason,
        message=refusal.message,
    )


def of_glass(action: StoredAction) -> Gate:
    """Approvals that were gone past."""
    return Gate(
        name="approvals",
        verdict=Gate.VERDICT_PASSED,
        message=f"{action.issuer} broke the glass",
    )


def of_executor(action: StoredAction, asked: Iterable[Gate] | None) -> list[Gate]:
    """What the executor held it by, or why that is not known; `asked` is None when it is away."""
    if action.state == S.STATE_REFUSED:
        return [
            Gate(
                name="executor",
                verdict=Gate.VERDICT_REFUSED,
                reason=action.reason,
                message=action.message,
            )
        ]
    if asked is not None:
        return list(asked)
    return [
        Gate(
            name="executor",
            verdict=Gate.VERDICT_NOT_ASKED,
            reason="EXECUTOR_UNAVAILABLE",
            message="the executor does not answer",
        )
    ]


def all_passed(gates: Iterable[Gate]) -> bool:
    """Says whether nothing holds or refuses."""
    return all(gate.verdict == Gate.VERDICT_PASSED for gate in gates)


def written(gates: Iterable[Gate]) -> bytes:
    """Returns gates as they are stored."""
    return execution_pb2.WhyActionResponse(gates=gates).SerializeToString()


def read(stored: bytes) -> list[Gate]:
    """Returns what `written` wrote."""
    return list(execution_pb2.WhyActionResponse.FromString(stored).gates)
