"""Who may call what: one line for every method of every service.

A method that is not in the table is refused, and a test compares the table with the descriptors.
The decision itself is the policy's, like every other decision.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from aegis.errors import PermissionDenied
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.doors import Call, Grant
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2
from aegis_policy import matches
from aegis_server.policy.decisions import Decisions, Question, Snapshot

DOMAIN = "aegis"


class Needs(NamedTuple):
    """The permission a method needs."""

    resource: str
    action: str


class Open:
    """Marks a method that anybody may call, who or whatever they are: it asks for its own proof."""


OPEN = Open()
# Asks the policy, given what its conditions see; raises `PermissionDenied`.
Permit = Callable[[Mapping[str, object]], Awaitable[Grant]]

# None: everybody who proved who they are, by a certificate of the trust domain or a token.
ACCESS: dict[str, Needs | Open | None] = {
    "/aegis.v1.SessionService/Bootstrap": OPEN,
    "/aegis.v1.SessionService/Login": OPEN,
    "/aegis.v1.SessionService/RefreshSession": OPEN,
    "/aegis.v1.SessionService/Logout": OPEN,
    "/aegis.v1.SessionService/RequestPasswordReset": OPEN,
    "/aegis.v1.SessionService/ResetPassword": OPEN,
    "/aegis.v1.SessionService/GetLoginOptions": OPEN,
    "/aegis.v1.UserService/CreateUser": Needs("/identity/users", "write"),
    "/aegis.v1.UserService/GetUser": Needs("/identity/users", "read"),
    "/aegis.v1.UserService/ListUsers": Needs("/identity/users", "read"),
    "/aegis.v1.UserService/UpdateUser": Needs("/identity/users", "write"),
    "/aegis.v1.UserService/DeleteUser": Needs("/identity/users", "write"),
    "/aegis.v1.UserService/GetProfile": None,
    "/aegis.v1.UserService/UpdateProfile": None,
    "/aegis.v1.UserService/ChangePassword": None,
    "/aegis.v1.ServiceAccountService/CreateServiceAccount": Needs(
        "/identity/service-accounts", "write"
    ),
    "/aegis.v1.ServiceAccountService/ListServiceAccounts": Needs(
        "/identity/service-accounts", "read"
    ),
    "/aegis.v1.ServiceAccountService/UpdateServiceAccount": Needs(
        "/identity/service-accounts", "write"
    ),
    "/aegis.v1.ServiceAccountService/DeleteServiceAccount": Needs(
        "/identity/service-accounts", "write"
    ),
    "/aegis.v1.ServiceAccountService/CreateApiKey": Needs("/identity/service-accounts", "write"),
    "/aegis.v1.ServiceAccountService/ListApiKeys": Needs("/identity/service-accounts", "read"),
    "/aegis.v1.ServiceAccountService/RotateApiKey": Needs("/identity/service-accounts", "write"),
    "/aegis.v1.ServiceAccountService/RevokeApiKey": Needs("/identity/service-accounts", "write"),
    "/aegis.v1.IdentityService/WhoAmI": None,
    "/aegis.v1.IdentityService/ListSigningKeys": Needs("/identity/keys", "read"),
    "/aegis.v1.PolicyService/Evaluate": Needs("/policy", "evaluate"),
    "/aegis.v1.PolicyService/BatchEvaluate": Needs("/policy", "evaluate"),
    "/aegis.v1.PolicyService/StreamEvaluate": Needs("/policy", "evaluate"),
    "/aegis.v1.PolicyService/Explain": Needs("/policy", "explain"),
    "/aegis.v1.PolicyService/ListPermitted": Needs("/policy", "explain"),
    "/aegis.v1.PolicyService/WatchPolicy": Needs("/policy", "replicate"),
    "/aegis.v1.PolicyService/ReportDecisions": Needs("/policy", "replicate"),
    "/aegis.v1.PolicyService/GetPolicy": Needs("/policy", "read"),
    "/aegis.v1.PolicyService/ImportPolicy": Needs("/policy", "write"),
    "/aegis.v1.PolicyAdminService/ListRules": Needs("/policy", "read"),
    "/aegis.v1.PolicyAdminService/ApplyPolicyChanges": Needs("/policy", "write"),
    "/aegis.v1.PolicyAdminService/ListRevisions": Needs("/policy", "read"),
    "/aegis.v1.PolicyAdminService/DiffPolicy": Needs("/policy", "read"),
    "/aegis.v1.PolicyAdminService/RollbackPolicy": Needs("/policy", "write"),
    "/aegis.v1.PolicyAdminService/LintPolicy": Needs("/policy", "read"),
    "/aegis.v1.PolicyAdminService/SimulatePolicy": Needs("/policy", "simulate"),
    "/aegis.v1.PolicyAdminService/AdoptBaseline": Needs("/policy", "write"),
    "/aegis.v1.PolicyAdminService/ListPolicyProposals": Needs("/policy", "read"),
    "/aegis.v1.PolicyAdminService/DecidePolicyProposal": Needs("/policy", "write"),
    "/aegis.v1.PolicyAdminService/ListDecisions": Needs("/policy/decisions", "read"),
    "/aegis.v1.PolicyAdminService/ExportDecisions": Needs("/policy/decisions", "export"),
    "/aegis.v1.DatasetService/RegisterDataset": Needs("/training/datasets", "register"),
    "/aegis.v1.DatasetService/GetDataset": Needs("/training/datasets", "read"),
    "/aegis.v1.DatasetService/ListDatasets": Needs("/training/datasets", "read"),
    "/aegis.v1.ParticipantService/InviteParticipant": Needs("/training/participants", "invite"),
    "/aegis.v1.ParticipantService/Enrol": OPEN,
    "/aegis.v1.ParticipantService/RenewCertificate": Needs("/training/participation", "attend"),
    "/aegis.v1.ParticipantService/DeclareHolding": Needs("/training/participation", "attend"),
    "/aegis.v1.ParticipantService/Attend": Needs("/training/participation", "attend"),
    "/aegis.v1.ParticipantService/GetParticipant": Needs("/training/participants", "read"),
    "/aegis.v1.ParticipantService/ListParticipants": Needs("/training/participants", "read"),
    "/aegis.v1.ParticipantService/RevokeParticipant": Needs("/training/participants", "revoke"),
    "/aegis.v1.PrivacyService/GetPrivacyLedger": Needs("/training/privacy", "read"),
    "/aegis.v1.PrivacyService/SetPrivacyLimit": Needs("/training/privacy", "limit"),
    "/aegis.v1.PrivacyService/ResetPrivacyLedger": Needs("/training/privacy", "reset"),
    "/aegis.v1.PrivacyService/CertifyPrivacy": Needs("/training/privacy", "read"),
    "/aegis.v1.ModelService/GetModel": Needs("/training/models", "read"),
    "/aegis.v1.ModelService/ListModels": Needs("/training/models", "read"),
    "/aegis.v1.ModelService/GetModelLineage": Needs("/training/models", "read"),
    "/aegis.v1.ModelService/DownloadModel": Needs("/training/models", "download"),
    "/aegis.v1.ModelService/ReleaseModel": Needs("/training/models", "release"),
    "/aegis.v1.TrainingService/CreateRun": Needs("/training/runs", "submit"),
    "/aegis.v1.TrainingService/PauseRun": Needs("/training/runs", "pause"),
    "/aegis.v1.TrainingService/ResumeRun": Needs("/training/runs", "resume"),
    "/aegis.v1.TrainingService/CompareRuns": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/GetRunMetrics": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/StartRun": Needs("/training/runs", "submit"),
    "/aegis.v1.TrainingService/WatchRun": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/StopRun": Needs("/training/runs", "stop"),
    "/aegis.v1.TrainingService/GetRun": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/ListRuns": Needs("/training/runs", "read"),
    "/aegis.v1.CoordinatorService/GetAssignment": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/CompleteRound": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/FinishRun": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/DispatchTasks": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/CollectAnswers": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/WatchWishes": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/CloseTasks": Needs("/training/runs", "coordinate"),
    # For anybody, or a participant for itself: only the handler knows whose it is.
    "/aegis.v1.ReviewService/SubmitUpdate": None,
    "/aegis.v1.ReviewService/ReviewRound": Needs("/review/updates", "judge"),
    "/aegis.v1.ReviewService/GetUpdate": Needs("/review/updates", "read"),
    "/aegis.v1.ReviewService/ListUpdates": Needs("/review/updates", "read"),
    "/aegis.v1.ReviewService/GetUpload": None,
    "/aegis.v1.ReviewService/WatchRound": Needs("/review/updates", "read"),
    "/aegis.v1.ReviewService/DownloadUpdate": Needs("/review/updates", "download"),
    # Conditions see from which verdict to which.
    "/aegis.v1.ReviewService/OverrideVerdict": None,
    "/aegis.v1.ReviewService/DownloadEvidence": Needs("/review/evidence", "read"),
    "/aegis.v1.ReviewService/GetReviewQueue": Needs("/review/updates", "read"),
    "/aegis.v1.DetectorService/TrainDetector": Needs("/review/detectors", "train"),
    "/aegis.v1.DetectorService/GetDetector": Needs("/review/detectors", "read"),
    "/aegis.v1.DetectorService/ListDetectors": Needs("/review/detectors", "read"),
    "/aegis.v1.DetectorService/ShadowDetector": Needs("/review/detectors", "promote"),
    # Conditions see how it was measured.
    "/aegis.v1.DetectorService/PromoteDetector": None,
    "/aegis.v1.DetectorService/CompareDetectors": Needs("/review/detectors", "read"),
    "/aegis.v1.GoldenSetService/CreateGoldenSet": Needs("/review/golden-sets", "create"),
    "/aegis.v1.GoldenSetService/FreezeGoldenSet": Needs("/review/golden-sets", "freeze"),
    # Conditions see how many rows, of which data set.
    "/aegis.v1.GoldenSetService/PromoteGoldenSet": None,
    "/aegis.v1.GoldenSetService/CompareGoldenSets": Needs("/review/golden-sets", "read"),
    "/aegis.v1.GoldenSetService/GetGoldenSet": Needs("/review/golden-sets", "read"),
    "/aegis.v1.GoldenSetService/ListGoldenSets": Needs("/review/golden-sets", "read"),
    "/aegis.v1.StandingService/GetStanding": Needs("/review/standings", "read"),
    "/aegis.v1.StandingService/ListStandings": Needs("/review/standings", "read"),
    "/aegis.v1.StandingService/ListQuarantines": Needs("/review/standings", "read"),
    # Conditions see what is decided, and about whom.
    "/aegis.v1.StandingService/DecideQuarantine": None,
    "/aegis.v1.StandingService/GetReviewAnalytics": Needs("/review/analytics", "read"),
    "/aegis.v1.ExecutionService/PlanAction": Needs("/execution/actions", "plan"),
    "/aegis.v1.ExecutionService/SubmitAction": Needs("/execution/actions", "submit"),
    "/aegis.v1.ExecutionService/GetAction": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/ListActions": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/WatchAction": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/ApproveAction": Needs("/execution/actions", "approve"),
    "/aegis.v1.ExecutionService/RejectAction": Needs("/execution/actions", "approve"),
    # One's own, or with the permission: only the handler knows whose it is.
    "/aegis.v1.ExecutionService/CancelAction": None,
    "/aegis.v1.ExecutionService/WhyAction": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/ResolveAction": Needs("/execution/actions", "resolve"),
    "/aegis.v1.ExecutionService/ReviewBreakGlass": Needs("/execution/actions", "review"),
    "/aegis.v1.ExecutionService/PauseExecution": Needs("/execution", "pause"),
    "/aegis.v1.ExecutionService/ResumeExecution": Needs("/execution", "resume"),
    "/aegis.v1.ExecutionService/GetExecutionState": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/GetHealingReport": Needs("/execution/actions", "read"),
    "/aegis.v1.AuditService/ListAuditRecords": Needs("/audit", "read"),
    "/aegis.v1.AuditService/ExportAuditRecords": Needs("/audit", "export"),
    "/aegis.v1.AuditService/GetAuditHead": Needs("/audit", "read"),
    "/aegis.v1.AuditService/GetAuditRecord": Needs("/audit", "read"),
    "/aegis.v1.AuditService/WatchAuditRecords": Needs("/audit", "read"),
    "/aegis.v1.AuditService/GetCheckpoint": Needs("/audit", "read"),
    "/aegis.v1.AuditService/ExportCheckpoints": Needs("/audit", "export"),
    "/aegis.v1.AuditService/GetInclusionProof": Needs("/audit", "read"),
    "/aegis.v1.AuditService/GetConsistencyProof": Needs("/audit", "read"),
    "/aegis.v1.AuditService/EraseAuditAttachments": Needs("/audit", "erase"),
}

OPEN_METHODS = frozenset(method for method, needs in ACCESS.items() if needs is OPEN)
SERVICES = tuple(sorted({method.split("/")[1] for method in ACCESS}))

# Each of their answers is in the decision log, with who asked.
_RECORDED_BY_HANDLER = frozenset(
    f"/aegis.v1.PolicyService/{name}" for name in ("Evaluate", "BatchEvaluate", "ReportDecisions")
)
_ASKERS_MAX = 10_000


class Access:
    """Admits callers to methods, and records that it did or did not."""

    def __init__(self, decisions: Decisions, audit: AuditLog) -> None:
        self._decisions = decisions
        self._audit = audit
        # Who was let in to ask questions by the rules in use: they ask thousands a second.
        self._askers: dict[tuple[str, str], tuple[Snapshot, tuple[str, ...], Grant]] = {}

    async def admit(self, method: str, caller: Caller) -> Grant:
        """Returns the grant.

        Raises `PermissionDenied`: SCOPE_INSUFFICIENT when the caller's API key is not for this,
        POLICY_DENIED when the rules do not allow it.
        """
        needs = ACCESS[method] if method in ACCESS else Needs(method, "call")
        if needs is None or isinstance(needs, Open):
            return Grant()
        return await self.require(caller, needs, method=method)

    async def require(
        self,
        caller: Caller,
        needs: Needs,
        *,
        method: str,
        attributes: Mapping[str, object] = MappingProxyType({}),
        current: bool = False,
    ) -> Grant:
        """Returns the grant, for a permission that only the handler can name; raises as `admit`.

        Conditions see `attributes`; `current` asks the newest rules, as `Decisions.decide` does.
        """
        if caller.scopes is not None and not in_scope(caller.scopes, needs):
            raise PermissionDenied(
                "SCOPE_INSUFFICIENT",
                f"no scope of this API key covers {needs.action}:{needs.resource}",
                resource=needs.resource,
                action=needs.action,
            )
        snapshot, held = self._decisions.snapshot, self._decisions.held_roles(caller.subject)
        asker = self._askers.get((caller.subject, method))
        if asker is not None and asker[0] is snapshot and asker[1] == held:
            return asker[2]
        decision = await self._decisions.decide(
            Question(caller.subject, DOMAIN, needs.resource, needs.action, attributes),
            current=current,
        )
        if not decision.allowed or method not in _RECORDED_BY_HANDLER:
            await self._audit.record(
                Entry(
                    kind=audit_pb2.AUDIT_KIND_ACCESS,
                    actor=caller.subject,
                    action=needs.action,
                    resource=needs.resource,
                    outcome="allow" if decision.allowed else "deny",
                    policy_revision=decision.revision,
                    rule_id=decision.rule_id,
                    subject_id=decision.decision_id,
                    details={"method": method},
                )
            )
        if not decision.allowed:
            raise denied(caller.subject, needs.resource, needs.action, decision.rule_id)
        grant = Grant(decision.revision, decision.rule_id)
        if method in _RECORDED_BY_HANDLER and decision.valid_until is None:
            if len(self._askers) >= _ASKERS_MAX:
                self._askers.clear()
            self._askers[caller.subject, method] = snapshot, held, grant
        return grant

    def permit(self, call: Call, needs: Needs) -> Permit:
        """Returns what asks the newest rules for a permission of this call, given attributes."""

        async def ask(attributes: Mapping[str, object]) -> Grant:
            return await self.require(
                call.caller, needs, method=call.method, attributes=attributes, current=True
            )

        return ask


def in_scope(scopes: Iterable[str], needs: Needs) -> bool:
    """Says whether one of the scopes, "ACTION:RESOURCE-PATTERN", covers a permission."""
    for scope in scopes:
        action, _, pattern = scope.partition(":")
        if action in ("*", needs.action) and matches(needs.resource, pattern):
            return True
    return False


def denied(subject: str, resource: str, action: str, rule_id: str) -> PermissionDenied:
    """Returns the error that says who may not do what, and which rule said so."""
    by = f"by rule {rule_id}" if rule_id else "because no rule allows it"
    return PermissionDenied(
        "POLICY_DENIED",
        f"{subject} may not {action} {resource}: denied {by}",
        subject=subject,
        resource=resource,
        action=action,
        rule_id=rule_id,
    )
