"""What the policy decides a run by, and the record of what it decided."""

from __future__ import annotations

from aegis.errors import PermissionDenied
from aegis.serving.auditlog import AuditLog, Entry
from aegis.v1 import audit_pb2, training_pb2
from aegis_server.policy.decisions import Decision, Decisions, Question
from aegis_server.training.states import RESOURCE
from aegis_server.training.units import embedded


class Admission:
    """Asks whether somebody may start a run of this plan: always anew, never from a cache."""

    def __init__(self, decisions: Decisions, audit: AuditLog) -> None:
        self._decisions = decisions
        self._audit = audit

    async def permit(
        self, plan: training_pb2.RunPlan, actor: str, participants: int, *, action: str
    ) -> Decision:
        """Returns the decision; raises `PermissionDenied` (POLICY_DENIED), which is on record.

        `action` is what is being done with the run, for the record.
        """
        attributes = attributes_of(plan, participants)
        question = Question(actor, "aegis", RESOURCE, "start", attributes)
        decision = await self._decisions.decide(question, current=True)
        if decision.allowed:
            return decision
        await self.record_refusal(
            plan, actor, participants, decision, action=action, reason="POLICY_DENIED"
        )
        by = f"by rule {decision.rule_id}" if decision.rule_id else "because no rule allows it"
        raise PermissionDenied(
            "POLICY_DENIED",
            f"{actor} may not start this run: denied {by}",
            subject=actor,
            resource=RESOURCE,
            action="start",
            rule_id=decision.rule_id,
        )

    async def record_refusal(
        self,
        plan: training_pb2.RunPlan,
        actor: str,
        participants: int,
        decision: Decision,
        *,
        action: str,
        reason: str,
    ) -> None:
        """Writes down that a run was not let in, though it is not there to be pointed at."""
        await self._audit.record(
            Entry(
                kind=audit_pb2.AUDIT_KIND_RUN,
                actor=actor,
                action=action,
                resource=RESOURCE,
                outcome="refused" if decision.allowed else "deny",
                reason=reason,
                policy_revision=decision.revision,
                rule_id=decision.rule_id,
                details=details_of(plan, participants),
            )
        )


def attributes_of(plan: training_pb2.RunPlan, participants: int) -> dict[str, object]:
    """Returns what conditions see as ctx.NAME."""
    sites = training_pb2.SITES_EMBEDDED if embedded(plan) else plan.sites
    unit = plan.privacy_unit or training_pb2.PRIVACY_UNIT_RECORD
    return {
        "review": "on" if plan.review else "off",
        "simulation": plan.simulation,
        "target_epsilon": plan.target_epsilon,
        "dataset": plan.dataset,
        "sites": training_pb2.Sites.Name(sites).removeprefix("SITES_").lower(),
        "participants": participants,
        "privacy_unit": training_pb2.PrivacyUnit.Name(unit).removeprefix("PRIVACY_UNIT_").lower(),
        "app": plan.app.name,
    }


def details_of(plan: training_pb2.RunPlan, participants: int) -> dict[str, str]:
    """Returns the same for an audit record."""
    return {name: str(value) for name, value in attributes_of(plan, participants).items()}
