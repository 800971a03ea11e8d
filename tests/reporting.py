"""Records made by hand, for tests of the report: one month in which everything happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from aegis.audit.checkpoints import Checkpoint
from aegis.audit.findings import Finding, LogResult, Result, Verdict
from aegis.audit.report.document import Report, assemble
from aegis.audit.report.facts import Facts, Period
from aegis.audit.report.frameworks import KNOWN, framework
from aegis.audit.report.gathering import gather
from aegis.v1 import audit_pb2, training_pb2

MAY = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
SERVER, EXECUTOR = "aegis-server", "aegis-executor"
NOON = datetime(2026, 5, 10, 12, tzinfo=UTC)


def record(
    kind: str,
    action: str,
    outcome: str,
    *,
    actor: str = "user:ada",
    at: datetime = NOON,
    evidence: dict[str, bytes] | None = None,
    **fields: object,
) -> audit_pb2.AuditRecord:
    """A record of a kind, at noon of the tenth of May unless told otherwise."""
    made = audit_pb2.AuditRecord(
        kind=audit_pb2.AuditKind.Value(f"AUDIT_KIND_{kind}"),
        actor=actor,
        action=action,
        outcome=outcome,
        **fields,  # type: ignore[arg-type]
    )
    made.time.FromDatetime(at)
    for name, content in (evidence or {}).items():
        made.evidence.add(name=name, content=content)
    return made


def plan(**values: object) -> bytes:
    """A serialised plan of a private run."""
    return training_pb2.RunPlan(
        **{  # type: ignore[arg-type]
            "dataset": "breast-cancer",
            "model": "mlp",
            "rounds": 2,
            "participants": 3,
            "local_steps": 4,
            "sample_rate": 0.3,
            "clip_norm": 1.5,
            "target_epsilon": 5.0,
            "delta": 1e-3,
            "review": True,
        }
        | values
    ).SerializeToString()


def budget(spent: float) -> dict[str, str]:
    return {
        "dataset": "breast-cancer",
        "budget_limit_epsilon": "20",
        "budget_delta": "0.001",
        "budget_spent_epsilon": f"{spent:.6f}",
    }


def run_of(
    run_id: str, *, at: datetime = NOON, spent: float = 5.0, **values: object
) -> Iterator[audit_pb2.AuditRecord]:
    """A whole run of two rounds, in the second of which site-3 is rejected."""

    def about(action: str, outcome: str, details: dict[str, str], **more: bytes):
        evidence = {name.replace("_json", ".json"): content for name, content in more.items()}
        return record(
            "RUN",
            action,
            outcome,
            at=at,
            subject_id=run_id,
            rule_id="starts",
            details=details,
            evidence=evidence,
        )

    yield about(
        "start", "starting", {"noise_multiplier": "0.9911", **budget(spent)}, plan=plan(**values)
    )
    yield about("run", "running", {})
    parts = [{"aggregated": ["site-1", "site-2", "site-3"]}]
    parts.append({"aggregated": ["site-1", "site-2"], "rejected": ["site-3"]})
    for number, part in enumerate(parts, 1):
        details = {"round": str(number), "epsilon": f"{number * 2.25:.6f}"}
        yield about(
            "complete_round", "completed", details, participants_json=json.dumps(part).encode()
        )
    yield about("finish", "completed", {"steps": "8", "epsilon": "4.500000", **budget(spent)})


def busy() -> Iterator[tuple[str, audit_pb2.AuditRecord]]:
    """The month: each number in the report has records of its own here."""
    april = datetime(2026, 4, 30, 23, 59, 59, tzinfo=UTC)
    for made in run_of("run-april", at=april, spent=3.0):
        yield SERVER, made
    for number in range(4):
        yield SERVER, record("ACCESS", "read", "allow", rule_id="reads", at=MAY.start)
        day = NOON + timedelta(days=number)
        yield (
            SERVER,
            record(
                "DECISION",
                "restart_pod",
                "deny",
                rule_id="",
                at=day,
                details={"subject": "automation:bot"},
            ),
        )
    for made in run_of("run-may", spent=7.5):
        yield SERVER, made
    for made in run_of("run-trial", spent=7.5, simulation=True, review=False):
        yield SERVER, made
    yield (
        SERVER,
        record(
            "RUN",
            "start",
            "refused",
            reason="PRIVACY_BUDGET_EXHAUSTED",
            details={"dataset": "breast-cancer"},
        ),
    )
    verdicts = [("site-1", "accepted"), ("site-2", "accepted"), ("site-3", "rejected")]
    for name, verdict in [*verdicts, ("site-1", "accepted"), ("site-3", "held")]:
        yield SERVER, record("REVIEW", "submit", "received", details={"participant": name})
        yield SERVER, record("REVIEW", "judge", verdict, details={"participant": name})
    yield SERVER, record("REVIEW", "override", "accepted", details={"participant": "site-3"})
    yield SERVER, record("REVIEW", "submit", "refused", reason="UPDATE_NOT_FINITE")
    bot = "automation:bot"
    for outcome in ("dispatched", "dispatched", "denied"):
        yield SERVER, record("ACTION", "restart_pod", outcome, actor=bot, rule_id="restarts")
    yield SERVER, record("ACTION", "restart_pod", "applied", actor="server:aegis")
    yield SERVER, record("ACTION", "restart_pod", "failed", reason="a sentence with ada's name")
    yield SERVER, record("ACTION", "submit", "refused", reason="REPLAY_DETECTED")
    yield SERVER, record("POLICY_CHANGE", "write", "imported", details={
        "revision": "2", "lines": "52", "digest": "ab" * 32
    })  # fmt: skip
    yield SERVER, record("POLICY_CHANGE", "write", "refused", reason="POLICY_INVALID")
    user = "/identity/users/u-1"
    key = "/identity/service-accounts/ci/keys/k-1"
    yield (
        SERVER,
        record("IDENTITY", "create", "created", resource=user, details={"roles": "viewer"}),
    )
    yield SERVER, record("IDENTITY", "change_roles", "changed", resource=user, details={
        "roles_before": "viewer", "roles_after": "auditor"
    })  # fmt: skip
    yield SERVER, record("IDENTITY", "login", "accepted", resource=user)
    for _ in range(2):
        yield SERVER, record("IDENTITY", "login", "refused", resource=user, reason="LOGIN_FAILED")
    yield SERVER, record("IDENTITY", "disable", "disabled", resource=user)
    yield SERVER, record("IDENTITY", "create", "created", resource=key)
    yield SERVER, record("IDENTITY", "rotate", "rotated", resource=key)
    yield SERVER, record("IDENTITY", "revoke", "revoked", resource=key)
    yield SERVER, record("KEY_CHANGE", "revoke", "revoked", subject_id="0123456789abcdef")
    yield SERVER, record("ERASURE", "erase", "erased", reason="please forget me", details={
        "index": "7", "names": "request"
    })  # fmt: skip
    yield SERVER, record("CHECKPOINT_PEER", "show", "recorded", actor="log:aegis-executor")
    yield SERVER, record("CHECKPOINT_PEER", "show", "rolled-back", actor="log:aegis-executor")
    for outcome, reason in (("intent", ""), ("applied", ""), ("refused", "SIGNATURE_INVALID")):
        yield EXECUTOR, record("EXECUTION", "restart_pod", outcome, actor=bot, reason=reason)
    yield SERVER, record("ACCESS", "read", "allow", rule_id="reads", at=MAY.end)


CUT = {
    SERVER: [MAY.start - timedelta(hours=1), MAY.start, NOON, NOON + timedelta(minutes=90)],
    EXECUTOR: [NOON],
}


def busy_facts() -> Facts:
    return gather(busy(), MAY, CUT)


def verified(verdict: Verdict = Verdict.GOOD) -> Result:
    """What a verification of the month found."""
    newest = Checkpoint(SERVER, 60, bytes(32), bytes(32), NOON)
    result = Result(
        logs=[
            LogResult(
                SERVER, 61, root=b"r" * 32, checkpoints=4, newest=newest, witnesses={"w:one": 60}
            )
        ]
    )
    if verdict is not Verdict.GOOD:
        result.findings.append(Finding(verdict, SERVER, "the record's bytes were altered", 7))
    return result


def reported(
    facts: Facts | None = None, verdict: Verdict = Verdict.GOOD, frameworks: tuple[str, ...] = KNOWN
) -> Report:
    return assemble(
        facts or busy_facts(),
        verified(verdict),
        [framework(name) for name in frameworks],
        made_at=MAY.end,
        own_keys=True,
    )
