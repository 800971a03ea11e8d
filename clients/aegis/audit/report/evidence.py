"""The facts that articles may name: each says in one sentence what the records show of it.

A fact with nothing to show in the period says so; an article whose facts are all empty has no
evidence, whatever its framework's file hopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aegis.audit.findings import Result, Verdict
from aegis.audit.report.facts import Facts


@dataclass(frozen=True, slots=True)
class Material:
    """What evidence is drawn from."""

    facts: Facts
    verification: Result


@dataclass(frozen=True, slots=True)
class Statement:
    """A fact in words; `found` is false when the period holds nothing of it."""

    fact: str
    text: str
    found: bool


def state(fact: str, material: Material) -> Statement:
    """Returns what the records show of a fact; KeyError for one that does not exist."""
    found, text = _FACTS[fact](material)
    return Statement(fact, text, found)


def _counted(count: int, what: str, more: str = "") -> tuple[bool, str]:
    return (True, f"{what}: {count:,}{more}") if count else (False, f"{what}: none in the period")


def _integrity(material: Material) -> tuple[bool, str]:
    found = material.verification
    total = sum(log.records for log in found.logs)
    signed = sum(log.newest.size for log in found.logs if log.newest is not None)
    if found.verdict is Verdict.GOOD and total:
        return True, f"all {total:,} records verify, {signed:,} of them under a signed checkpoint"
    if not total:
        return False, "no record to verify"
    return False, f"the verification ended with {found.verdict.name}: no evidence until explained"


def _records(material: Material) -> tuple[bool, str]:
    return _counted(material.facts.records, "records of who did what, when, with what outcome")


def _checkpoints(material: Material) -> tuple[bool, str]:
    logs = material.facts.logs
    gaps = [log.longest_gap for log in logs if log.longest_gap is not None]
    gap = f", never more than {_span(max(gaps).total_seconds())} apart" if gaps else ""
    return _counted(sum(log.checkpoints for log in logs), "signed checkpoints", gap)


def _witnesses(material: Material) -> tuple[bool, str]:
    seen = {name for log in material.verification.logs for name in log.witnesses}
    names = f" ({', '.join(sorted(seen))})"
    return _counted(len(seen), "witnesses that cosigned checkpoints", names)


def _retention(material: Material) -> tuple[bool, str]:
    first = [log.first_record for log in material.facts.logs if log.first_record is not None]
    if not first:
        return False, "no record at all"
    end = max(log.last_record for log in material.facts.logs if log.last_record is not None)
    days = (end - min(first)).days
    return True, f"whole days from the first record, of {min(first):%Y-%m-%d}, to the last: {days}"


def _decisions(material: Material) -> tuple[bool, str]:
    found = material.facts.decisions
    return _counted(found.allowed + found.denied, "policy decisions", f", denied {found.denied:,}")


def _denials(material: Material) -> tuple[bool, str]:
    found = material.facts.decisions
    return _counted(found.denied, "denials", f", of subjects: {len(found.denied_subjects):,}")


def _policy_changes(material: Material) -> tuple[bool, str]:
    changes = material.facts.policy_changes
    refused = sum(change.revision == 0 for change in changes)
    return _counted(len(changes), "changes of the rules", f", refused {refused:,}")


def _keys(material: Material) -> tuple[bool, str]:
    return _counted(len(material.facts.key_changes), "changes of signing keys or the trust bundle")


def _logins(material: Material) -> tuple[bool, str]:
    found = material.facts.identity
    more = f", refused {found.failed_logins:,}"
    return _counted(found.logins + found.failed_logins, "attempts to log in", more)


def _accounts(material: Material) -> tuple[bool, str]:
    return _counted(material.facts.identity.accounts_opened, "accounts opened")


def _closures(material: Material) -> tuple[bool, str]:
    return _counted(material.facts.identity.accounts_closed, "accounts disabled or deleted")


def _roles(material: Material) -> tuple[bool, str]:
    return _counted(len(material.facts.identity.role_changes), "grants and changes of roles")


def _api_keys(material: Material) -> tuple[bool, str]:
    found = material.facts.identity
    more = f", revoked {found.keys_ended:,}"
    return _counted(found.keys_made + found.keys_ended, "API keys made or revoked", more)


def _runs(material: Material) -> tuple[bool, str]:
    runs = material.facts.runs
    more = f", simulations {sum(run.simulation for run in runs):,}"
    return _counted(len(runs), "training runs under differential privacy", more)


def _budgets(material: Material) -> tuple[bool, str]:
    kept = [data for data in material.facts.datasets if data.spent is not None]
    most = max((data.spent or 0.0 for data in kept), default=0.0)
    more = f", the most spent epsilon {most:.2f}"
    return _counted(len(kept), "data sets with a privacy budget", more)


def _participants(material: Material) -> tuple[bool, str]:
    names = {part.participant for part in material.facts.participants}
    return _counted(len(names), "participants whose part in each round is on record")


def _verdicts(material: Material) -> tuple[bool, str]:
    found = material.facts.reviews
    count = found.accepted + found.rejected + found.held
    more = f" (accepted {found.accepted:,}, rejected {found.rejected:,}, held {found.held:,})"
    return _counted(count, "verdicts on model updates", more)


def _refused_updates(material: Material) -> tuple[bool, str]:
    count = sum(refusal.count for refusal in material.facts.reviews.refusals)
    return _counted(count, "model updates refused at the door")


def _actions(material: Material) -> tuple[bool, str]:
    found = material.facts.actions
    more = f", denied {found.denied:,}"
    return _counted(found.allowed + found.denied, "signed actions decided", more)


def _refused_actions(material: Material) -> tuple[bool, str]:
    found = material.facts.actions
    count = sum(refusal.count for refusal in found.refusals)
    count += sum(each.count for each in found.executor if each.outcome == "refused")
    return _counted(count, "action requests refused before anything was done")


def _executions(material: Material) -> tuple[bool, str]:
    found = material.facts.actions
    count = sum(each.count for each in found.executor if each.outcome == "intent")
    return _counted(count, "actions the executor wrote down before it acted")


def _erasures(material: Material) -> tuple[bool, str]:
    return _counted(len(material.facts.erasures), "erasures of what was stored beside a record")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


_FACTS: Mapping[str, Callable[[Material], tuple[bool, str]]] = {
    "integrity": _integrity,
    "records": _records,
    "checkpoints": _checkpoints,
    "witnesses": _witnesses,
    "retention": _retention,
    "decisions": _decisions,
    "denials": _denials,
    "policy-changes": _policy_changes,
    "key-changes": _keys,
    "logins": _logins,
    "accounts": _accounts,
    "closures": _closures,
    "roles": _roles,
    "api-keys": _api_keys,
    "runs": _runs,
    "budgets": _budgets,
    "participants": _participants,
    "verdicts": _verdicts,
    "refused-updates": _refused_updates,
    "actions": _actions,
    "refused-actions": _refused_actions,
    "executions": _executions,
    "erasures": _erasures,
}
FACTS = frozenset(_FACTS)
