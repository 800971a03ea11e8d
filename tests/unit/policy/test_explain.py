"""Explanations and permissions: from the same rows as the decision."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from tests.unit.policy.test_equivalence import QUESTIONS, paths, rule_sets

from aegis_policy import Engine, RequestError, matches
from aegis_policy.explain import NotCompiled, explain, permitted_to, who_may
from aegis_policy.models import DEFAULT_MODEL
from aegis_policy.paths import overlap

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
RULES = """
p, role:operator, *, /clusters/*/pods/*, restart_pod, ctx.count <= 3, allow, restarts-few
p, role:guarded, *, /clusters/prod/**, *, ctx.freeze, deny, freeze
p, role:admin, *, /**, *, , allow, admin-all
p, user:eve, *, /**, *, , deny, never-eve
g2, user:ann, role:operator
g2, role:operator, role:guarded
g, user:bob, role:admin, north
"""


def explained(subject: str, resource: str = "/clusters/prod/pods/web", **attributes: object):
    return explain(
        Engine.from_csv(RULES),
        subject=subject,
        domain="aegis",
        resource=resource,
        action="restart_pod",
        attributes=attributes,
        now=NOON,
    )


def test_allowed_request_names_rule_role_path_condition_and_values() -> None:
    """The deciding rule comes first, with the way to it and what its condition read."""
    told = explained("user:ann", count=2, freeze=False)
    assert told.decision.allowed
    first = told.matched[0]
    assert (first.row.rule_id, first.outcome) == ("restarts-few", "true")
    assert first.role_path == ("user:ann", "role:operator")
    assert first.values == {"ctx.count": "2"}
    assert [(trace.row.rule_id, trace.outcome) for trace in told.failed] == [("freeze", "false")]
    assert told.roles == ("role:guarded", "role:operator")
    assert told.would_allow == ()


def test_denied_request_names_the_deny_and_what_keeps_it() -> None:
    """A deny comes through an inherited role; without it the request would be allowed."""
    told = explained("user:ann", count=2, freeze=True)
    assert told.decision.rule_id == "freeze"
    assert told.matched[0].role_path == ("user:ann", "role:operator", "role:guarded")
    assert told.would_allow == ("if freeze did not deny: not (ctx.freeze)",)


def test_condition_without_an_answer_says_why() -> None:
    """A missing attribute is told as missing; the deny counts, the allow does not."""
    told = explained("user:ann")
    assert [(t.row.rule_id, t.outcome) for t in told.matched] == [
        ("freeze", "no answer: ctx.freeze is missing")
    ]
    assert told.failed[0].values == {"ctx.count": "missing"}
    assert told.would_allow[-1] == "if user:ann had role:admin, by admin-all"
    assert "if ctx.count <= 3 held, by restarts-few" in told.would_allow


def test_stranger_is_told_which_role_it_lacks() -> None:
    """Nothing matches; every rule for that resource is named with whom it is for."""
    told = explained("user:zoe")
    assert (told.matched, told.failed) == ((), ())
    assert told.would_allow == (
        "if user:zoe had role:operator and ctx.count <= 3 held, by restarts-few",
        "if user:zoe had role:admin, by admin-all",
    )


def test_permissions_of_a_subject_come_with_conditions_and_with_what_may_take_them_away() -> None:
    """What ann may do in any tenant; the deny that overlaps is named."""
    (only,) = permitted_to(Engine.from_csv(RULES), "user:ann", "aegis")
    assert (only.resource, only.action) == ("/clusters/*/pods/*", "restart_pod")
    assert (only.condition, only.denied_by) == ("ctx.count <= 3", ("freeze",))
    assert only.role_path == ("user:ann", "role:operator")


def test_permissions_follow_tenant_resource_action_and_directory() -> None:
    """bob is an admin in one tenant; a role from a directory counts as one from the rules."""
    engine = Engine.from_csv(RULES)
    assert permitted_to(engine, "user:bob", "aegis") == []
    assert [each.rule_id for each in permitted_to(engine, "user:bob", "north")] == ["admin-all"]
    cy = permitted_to(engine, "user:cy", "aegis", roles=("role:operator",), action="restart_pod")
    assert [each.rule_id for each in cy] == ["restarts-few"]
    assert permitted_to(engine, "user:ann", "aegis", resource="/policy") == []


def test_who_may_do_something_is_everybody_the_rules_and_the_directory_know() -> None:
    """Both are asked, and whom a rule denies without condition is still shown with the deny."""
    engine = Engine.from_csv(RULES)
    found = who_may(
        engine,
        "north",
        resource="/clusters/test/pods/web",
        action="restart_pod",
        held={"user:cy": ("role:admin",), "user:eve": ("role:admin",)},
    )
    assert [(each.subject, each.rule_id, each.denied_by) for each in found] == [
        ("user:ann", "restarts-few", ()),
        ("user:bob", "admin-all", ()),
        ("user:cy", "admin-all", ()),
        ("user:eve", "admin-all", ("never-eve",)),
    ]


def test_bad_questions_are_refused() -> None:
    """What cannot be decided cannot be explained; a model of one's own has no explanations."""
    engine = Engine.from_csv(RULES)
    with pytest.raises(RequestError):
        permitted_to(engine, "role:admin", "aegis")
    with pytest.raises(RequestError):
        who_may(engine, "aegis", resource="not/a/path")
    own = Engine.from_csv(RULES, DEFAULT_MODEL.replace('p.dom == "*" || ', ""))
    with pytest.raises(NotCompiled):
        permitted_to(own, "user:ann", "aegis")


@settings(max_examples=100, deadline=None)
@given(text=rule_sets(), question=QUESTIONS)
def test_explanation_never_contradicts_the_decision(text: str, question: tuple) -> None:
    """Allowed: an allow matched and no deny; denied: the named deny matched, or no allow did."""
    subject, domain, resource, action, attributes, now = question
    told = explain(
        Engine.from_csv(text),
        subject=subject,
        domain=domain,
        resource=resource,
        action=action,
        attributes=attributes,
        now=now,
    )
    denies = [trace.row.rule_id for trace in told.matched if trace.row.deny]
    allows = [trace.row.rule_id for trace in told.matched if not trace.row.deny]
    assert told.decision.allowed == (bool(allows) and not denies)
    if told.decision.rule_id:
        assert told.matched[0].row.rule_id == told.decision.rule_id
    assert all(trace.role_path for trace in told.matched)


@given(paths(pattern=True), paths(pattern=True), paths(pattern=False))
def test_patterns_overlap_when_a_resource_fits_both(one: str, other: str, resource: str) -> None:
    """What fits both proves it, and the relation has no direction."""
    if matches(resource, one) and matches(resource, other):
        assert overlap(one, other)
    assert overlap(one, other) == overlap(other, one)
