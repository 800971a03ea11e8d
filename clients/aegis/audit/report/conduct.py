"""Counts of decisions, actions, identity, and of changes to rules, keys and the record itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date

from aegis.audit.report.facts import (
    ActionCount,
    ActionFacts,
    Count,
    DayCount,
    DecisionFacts,
    Erasure,
    EventCount,
    IdentityFacts,
    KeyChange,
    PolicyChange,
    RoleChange,
    RuleCount,
)
from aegis.audit.report.reading import (
    count_of,
    names_of,
    number_of,
    reason_of,
    tally,
    time_of,
)
from aegis.v1 import audit_pb2

_SOURCES = {
    audit_pb2.AUDIT_KIND_DECISION: "asked by programs",
    audit_pb2.AUDIT_KIND_ACCESS: "at the doors",
    audit_pb2.AUDIT_KIND_ACTION: "about actions",
    audit_pb2.AUDIT_KIND_RUN: "about runs",
}
_ALLOWED = frozenset({"allow", "dispatched", "starting"})
_DENIED = frozenset({"deny", "denied"})
# What a summary counts and does not name.
OTHERS = "(others)"
_ABOUT = {
    "identity/users": "user",
    "training/participants": "participant",
    "training/datasets": "data set",
}
_CLOSING = frozenset({"delete", "disable"})


class DecisionCounts:
    """Takes whatever the policy decided."""

    def __init__(self) -> None:
        self._sources: Counter[str] = Counter()
        self._allowed: Counter[str] = Counter()
        self._denied: Counter[str] = Counter()
        self._denied_subjects: Counter[str] = Counter()
        self._days: dict[date, list[int]] = {}
        self._unrecorded = 0

    def take(self, record: audit_pb2.AuditRecord) -> None:
        """Takes the next record; what is no decision is left out."""
        source = _SOURCES.get(record.kind)
        if record.kind == audit_pb2.AUDIT_KIND_DECISION and record.outcome == "logged":
            self._take_summary(record)
            return
        denied = record.outcome in _DENIED
        if source is None or not (denied or record.outcome in _ALLOWED):
            return
        self._sources[source] += 1
        (self._denied if denied else self._allowed)[record.rule_id] += 1
        self._days.setdefault(time_of(record).date(), [0, 0])[denied] += 1
        if denied:
            # Who asks about somebody else is not the one who was denied.
            asked = record.kind == audit_pb2.AUDIT_KIND_DECISION
            subject = record.details.get("subject", "") if asked else record.actor
            self._denied_subjects[subject or record.actor] += 1

    def _take_summary(self, record: audit_pb2.AuditRecord) -> None:
        """Takes a record that commits to the decision log: the decisions of some seconds."""
        allowed, denied = count_of(record, "allow"), count_of(record, "deny")
        named = names_of(record)
        self._sources[_SOURCES[record.kind]] += allowed + denied
        _add(self._allowed, named.get("allow", {}), allowed)
        _add(self._denied, named.get("deny", {}), denied)
        _add(self._denied_subjects, named.get("denied", {}), denied)
        day = self._days.setdefault(time_of(record).date(), [0, 0])
        day[0] += allowed
        day[1] += denied
        self._unrecorded += count_of(record, "unrecorded")

    def facts(self) -> DecisionFacts:
        """Returns the counts."""
        total = self._allowed + self._denied
        return DecisionFacts(
            allowed=self._allowed.total(),
            denied=self._denied.total(),
            sources=_counts(self._sources),
            rules=tuple(
                RuleCount(rule, self._allowed[rule], self._denied[rule]) for rule, _ in tally(total)
            ),
            denied_subjects=_counts(self._denied_subjects),
            days=tuple(DayCount(day, *counts) for day, counts in sorted(self._days.items())),
            unrecorded=self._unrecorded,
        )


def _add(counter: Counter[str], named: Mapping[str, int], total: int) -> None:
    """Adds what is named; a summary names the most frequent only, its total counts all."""
    if sum(named.values()) > total:
        named = {}
    counter.update(named)
    if rest := total - sum(named.values()):
        counter[OTHERS] += rest


class ActionCounts:
    """Takes ACTION records of the server and EXECUTION records of the executor."""

    def __init__(self) -> None:
        self._allowed = self._denied = 0
        self._issuers: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str, str]] = Counter()
        self._executor: Counter[tuple[str, str, str]] = Counter()

    def take(self, record: audit_pb2.AuditRecord) -> None:
        """Takes the next record."""
        key = (record.action, record.outcome, reason_of(record))
        if record.kind == audit_pb2.AUDIT_KIND_EXECUTION:
            self._executor[key] += 1
        elif record.action == "submit":
            self._refusals[reason_of(record) or "unnamed"] += 1
        elif record.outcome in _ALLOWED or record.outcome in _DENIED:
            self._allowed += record.outcome in _ALLOWED
            self._denied += record.outcome in _DENIED
            self._issuers[record.actor.partition(":")[0]] += 1
        else:
            self._outcomes[key] += 1

    def facts(self) -> ActionFacts:
        """Returns the counts."""
        return ActionFacts(
            allowed=self._allowed,
            denied=self._denied,
            issuers=_counts(self._issuers),
            outcomes=_actions(self._outcomes),
            refusals=_counts(self._refusals),
            executor=_actions(self._executor),
        )


class IdentityCounts:
    """Takes IDENTITY records."""

    def __init__(self) -> None:
        self._events: Counter[tuple[str, str, str, str]] = Counter()
        self._roles: list[RoleChange] = []

    def take(self, record: audit_pb2.AuditRecord) -> None:
        """Takes the next record."""
        about = _about(record.resource)
        self._events[(about, record.action, record.outcome, reason_of(record))] += 1
        before, after = (record.details.get(name, "") for name in ("roles_before", "roles_after"))
        if record.action == "create":
            after = record.details.get("roles", "")
        if before or after:
            subject = _subject(record.resource)
            self._roles.append(RoleChange(time_of(record), record.actor, subject, before, after))

    def facts(self) -> IdentityFacts:
        """Returns the counts."""
        return IdentityFacts(
            logins=self._number({"login"}, {"accepted"}),
            failed_logins=self._number({"login"}, {"refused"}),
            accounts_opened=self._number({"create", "bootstrap"}, {"created"}, keys=False),
            accounts_closed=self._number(_CLOSING, {"deleted", "disabled"}, keys=False),
            keys_made=self._number({"create", "rotate"}, {"created", "rotated"}, keys=True),
            keys_ended=self._number({"revoke"}, {"revoked"}, keys=True),
            events=tuple(EventCount(*key, count) for key, count in sorted(self._events.items())),
            role_changes=tuple(self._roles),
        )

    def _number(
        self, actions: set[str] | frozenset[str], outcomes: set[str], *, keys: bool | None = None
    ) -> int:
        return sum(
            count
            for (about, action, outcome, _), count in self._events.items()
            if action in actions
            and outcome in outcomes
            and (keys is None or keys == (about == "API key"))
        )


def policy_change(record: audit_pb2.AuditRecord) -> PolicyChange:
    """Returns what a POLICY_CHANGE record tells."""
    return PolicyChange(
        time=time_of(record),
        actor=record.actor,
        outcome=record.outcome,
        revision=int(number_of(record, "revision") or 0),
        lines=int(number_of(record, "lines") or 0),
        digest=record.details.get("digest", ""),
    )


def key_change(record: audit_pb2.AuditRecord) -> KeyChange:
    """Returns what a KEY_CHANGE record tells."""
    key = record.subject_id or record.resource
    return KeyChange(time_of(record), record.actor, record.action, key, record.outcome)


def erasure(record: audit_pb2.AuditRecord) -> Erasure:
    """Returns what an ERASURE record tells."""
    index, names = (record.details.get(name, "") for name in ("index", "names"))
    return Erasure(time_of(record), record.actor, index, names)


def _about(resource: str) -> str:
    parts = resource.strip("/").split("/")
    if parts[:2] == ["identity", "service-accounts"]:
        return "API key" if parts[3:4] == ["keys"] else "service account"
    return _ABOUT.get("/".join(parts[:2]), "other")


def _subject(resource: str) -> str:
    kind = "service" if "/service-accounts/" in resource else "user"
    return f"{kind}:{resource.rpartition('/')[2]}"


def _counts(counter: Counter[str]) -> tuple[Count, ...]:
    return tuple(Count(name, count) for name, count in tally(counter))


def _actions(counter: Counter[tuple[str, str, str]]) -> tuple[ActionCount, ...]:
    return tuple(ActionCount(*key, count) for key, count in sorted(counter.items()))
