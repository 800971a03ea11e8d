"""What somebody wants to become of the rules, and what the audit log is told about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aegis.serving.auditlog import Entry
from aegis.v1 import audit_pb2
from aegis_server.policy.decisions import Decision
from aegis_server.policy.lockout import RESOURCE
from aegis_server.policy.proposals.store import Proposal
from aegis_server.policy.store import Revision


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants the rules to change, why, and what to call it in the audit log."""

    actor: str
    reason: str
    outcome: str = "imported"
    # The revision it was made from; 0 takes whatever is current.
    expected_revision: int = 0
    validate_only: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Approval:
    """The proposal that a wish carries out, and what its approver said."""

    proposal: Proposal
    note: str


class Outcome(NamedTuple):
    """What came of a wish: a revision, or the proposal that a second person has to approve."""

    revision: Revision | None
    proposal_id: str = ""


def told(revision: Revision) -> dict[str, str]:
    """Returns what a record says of a revision."""
    facts = {
        "revision": str(revision.number),
        "digest": revision.digest.hex(),
        "lines": str(revision.rule_count),
    }
    return facts | ({"own_model": "true"} if revision.model_conf else {})


def approved(wish: Wish, may: Decision, revision: Revision, approval: Approval) -> Entry:
    """Returns the record of an approval, which names both people."""
    proposal = approval.proposal
    more = {"proposal": proposal.proposal_id, "proposer": proposal.proposer}
    return entry_of(wish, "approved", may, note=approval.note, **told(revision), **more)


def entry_of(
    wish: Wish,
    outcome: str,
    may: Decision | None,
    *,
    reason: str = "",
    note: str = "",
    **details: str,
) -> Entry:
    """Returns the record of what came of a wish, and by whose leave."""
    attachments = {"reason": wish.reason.encode(), "note": note.encode()}
    number = details.get("revision") or details.get("proposal", "")
    return Entry(
        kind=audit_pb2.AUDIT_KIND_POLICY_CHANGE,
        actor=wish.actor,
        action="write",
        resource=RESOURCE,
        outcome=outcome,
        reason=reason,
        policy_revision=may.revision if may else 0,
        rule_id=may.rule_id if may else "",
        subject_id=f"policy/{number}" if number else "",
        details={**wish.details, **details},
        # A refusal leaves no revision behind for which its reason would be kept.
        attachments={name: text for name, text in attachments.items() if text and number},
    )
