"""Why a request is decided as it is, and what a subject may do at all.

Both read the same rows the decision reads, so they cannot tell another story.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aegis_policy.conditions import Moment, Unanswerable, value_at
from aegis_policy.engine import Decision, Engine, fits
from aegis_policy.index import ANY, Row
from aegis_policy.paths import overlap
from aegis_policy.requests import check_action, check_subject, segments_of

_SUGGESTIONS_MAX = 10


class NotCompiled(Exception):
    """The rules have a model of their own: PyCasbin decides, and cannot tell why."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A rule and how it relates to a request; `outcome` is what its condition came to."""

    row: Row
    role_path: tuple[str, ...]
    outcome: str
    # What the condition read, by path; "missing" where there was nothing.
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision with its grounds: rules that count, rules that only their condition kept out."""

    decision: Decision
    roles: tuple[str, ...]
    matched: tuple[Trace, ...]
    failed: tuple[Trace, ...]
    would_allow: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Permission:
    """Something that is allowed where `condition` holds, but for the rules in `denied_by`."""

    subject: str
    resource: str
    action: str
    condition: str
    rule_id: str
    role_path: tuple[str, ...]
    denied_by: tuple[str, ...]


def explain(
    engine: Engine,
    *,
    subject: str,
    domain: str,
    resource: str,
    action: str,
    attributes: Mapping[str, object] | None = None,
    roles: Sequence[str] = (),
    now: datetime | None = None,
) -> Explanation:
    """Returns the decision and why; raises as `Engine.decide`, and `NotCompiled`."""
    _compiled(engine)
    moment = Moment(attributes or {}, now or datetime.now(UTC))
    decision = engine.decide(
        subject=subject,
        domain=domain,
        resource=resource,
        action=action,
        attributes=attributes,
        roles=roles,
        now=moment.now,
    )
    held = engine.roles_of(subject, domain, roles)
    covering = sorted(engine.index.covering(domain, segments_of(resource), action))
    matched: list[Trace] = []
    failed: list[Trace] = []
    for row in covering:
        if row.subject != subject and row.subject not in held:
            continue
        trace = _trace(engine, row, subject, domain, roles, moment)
        counts = row.condition is None or fits(row, row.condition, moment)
        (matched if counts else failed).append(trace)
    matched.sort(key=lambda trace: trace.row.rule_id != decision.rule_id)
    wishes: list[str] = []
    if not decision.allowed:
        wishes = [*_wishes(matched, failed, covering, subject, held)][:_SUGGESTIONS_MAX]
    return Explanation(decision, tuple(sorted(held)), tuple(matched), tuple(failed), tuple(wishes))


def _trace(
    engine: Engine, row: Row, subject: str, domain: str, roles: Sequence[str], moment: Moment
) -> Trace:
    path = tuple(engine.role_path(subject, row.subject, domain, roles))
    if row.condition is None:
        return Trace(row, path, "true")
    try:
        outcome = "true" if row.condition.holds(moment) else "false"
    except Unanswerable as error:
        outcome = f"no answer: {error}"
    values = {
        f"ctx.{'.'.join(path)}": value_at(moment, path) for path in sorted(row.condition.paths)
    }
    return Trace(row, path, outcome, values)


def _wishes(
    matched: Sequence[Trace],
    failed: Sequence[Trace],
    covering: Iterable[Row],
    subject: str,
    held: frozenset[str],
) -> Iterator[str]:
    """Says what would have to be otherwise, the nearest first."""
    denies = [trace.row for trace in matched if trace.row.deny]
    for row in denies:
        way = f"not ({row.condition.source})" if row.condition else "it has no condition"
        yield f"if {row.rule_id} did not deny: {way}"
    if any(not trace.row.deny for trace in matched):
        return
    for trace in failed:
        if not trace.row.deny and trace.row.condition is not None:
            yield f"if {trace.row.condition.source} held, by {trace.row.rule_id}"
    for row in covering:
        if not row.deny and row.subject not in held and row.subject != subject:
            need = f" and {row.condition.source} held" if row.condition else ""
            have = f"had {row.subject}" if row.subject.startswith("role:") else f"was {row.subject}"
            yield f"if {subject} {have}{need}, by {row.rule_id}"


def permitted_to(
    engine: Engine,
    subject: str,
    domain: str,
    *,
    resource: str = "",
    action: str = "",
    roles: Sequence[str] = (),
) -> list[Permission]:
    """Returns what a subject may do; raises `RequestError`, `NotCompiled`.

    `resource` and `action`, where given, are the only ones that are asked about.
    """
    check_subject(subject, domain)
    return [
        *_permissions(engine, domain, _about(engine, domain, resource, action), {subject: roles})
    ]


def who_may(
    engine: Engine,
    domain: str,
    *,
    resource: str,
    action: str = "",
    held: Mapping[str, Sequence[str]] | None = None,
) -> list[Permission]:
    """Returns who may do something; `held` are roles of subjects beside the rules.

    Raises `RequestError`, `NotCompiled`.
    """
    segments_of(resource)
    held = held or {}
    names = sorted(name for name in {*engine.subjects(), *held} if not name.startswith("role:"))
    asked = {name: held.get(name, ()) for name in names}
    return [*_permissions(engine, domain, _about(engine, domain, resource, action), asked)]


def _permissions(
    engine: Engine, domain: str, rows: Sequence[Row], asked: Mapping[str, Sequence[str]]
) -> Iterator[Permission]:
    """Yields what rows give to subjects, which come with the roles they hold beside the rules."""
    by_holder: dict[str, list[Row]] = {}
    for row in rows:
        by_holder.setdefault(row.subject, []).append(row)
    for subject, roles in asked.items():
        holders = {subject, *engine.roles_of(subject, domain, roles)}
        theirs = sorted(row for holder in holders for row in by_holder.get(holder, ()))
        denies = [row for row in theirs if row.deny]
        for row in theirs:
            if not row.deny:
                yield Permission(
                    subject,
                    row.resource,
                    row.action,
                    row.condition.source if row.condition else "",
                    row.rule_id,
                    tuple(engine.role_path(subject, row.subject, domain, roles)),
                    tuple(deny.rule_id for deny in denies if _overlap(row, deny)),
                )


def _about(engine: Engine, domain: str, resource: str, action: str) -> list[Row]:
    """Returns the rows of a domain that concern a resource and an action, in their order."""
    _compiled(engine)
    if action:
        check_action(action)
    if resource and action:
        return sorted(engine.index.covering(domain, segments_of(resource), action))
    rows = engine.index.rows(domain)
    if resource:
        segments_of(resource)
        rows = (row for row in rows if overlap(row.resource, resource))
    return sorted(row for row in rows if not action or row.action in (action, ANY))


def _overlap(allow: Row, deny: Row) -> bool:
    """Says whether some request could match both, conditions aside."""
    same_action = ANY in (allow.action, deny.action) or allow.action == deny.action
    return same_action and overlap(allow.resource, deny.resource)


def _compiled(engine: Engine) -> None:
    if not engine.compiled:
        raise NotCompiled
