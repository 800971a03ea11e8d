"""The compiled engine gives the answers of PyCasbin, and names the rule that PyCasbin names.

`AEGIS_EQUIVALENCE_CASES=100000 pytest tests/unit/policy/test_equivalence.py` is the nightly round.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.policy.oracle import Oracle

from aegis_policy import Engine, read_model, read_rules
from aegis_policy.models import DEFAULT_MODEL

CASES = int(os.environ.get("AEGIS_EQUIVALENCE_CASES", "2000"))
# Requests that each drawn rule set is asked.
ASKED = 40
FIRST_MATCH = DEFAULT_MODEL.replace(
    "some(where (p.eft == allow)) && !some(where (p.eft == deny))", "priority(p.eft) || deny"
)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
USERS = [f"user:{name}" for name in ("ann", "bob", "cyd", "dan")]
ROLES = [f"role:{name}" for name in ("a", "b", "c", "d", "e")]
DOMAINS = ["aegis", "north", "south"]
SEGMENTS = ["a", "b", "c", "*", "**"]
ACTIONS = ["read", "write", "restart_pod"]
CONDITIONS = [
    "",
    "",
    "",
    "ctx.level > 3",
    "ctx.level <= 3 or ctx.team == 'ops'",
    "not (ctx.team in ['ops', 'dev'])",
    "ctx.on_call and ctx.level == 1",
    'weekly("Mon-Fri", "09:00", "17:30", "Europe/Berlin")',
    'between("2026-03-02T00:00:00Z", "2026-03-02T13:00:00Z")',
    'cidr(ctx.ip, "10.0.0.0/8")',
]
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "level": st.sampled_from([0, 1, 3, 4, 5.5, "4", True]),
        "team": st.sampled_from(["ops", "dev", "other", 7]),
        "on_call": st.booleans(),
        "ip": st.sampled_from(["10.1.2.3", "192.0.2.1", "no address", "::ffff:10.0.0.1"]),
    },
)


@st.composite
def paths(draw: st.DrawFn, *, pattern: bool) -> str:
    """Draws a resource, or a pattern: "**" only last."""
    segments = draw(st.lists(st.sampled_from(SEGMENTS[:4]), min_size=1, max_size=4))
    if pattern and draw(st.booleans()):
        segments.append("**")
    return "/" + "/".join(segments)


@st.composite
def rule_sets(draw: st.DrawFn) -> str:
    """Draws a rule file: rules with every feature, bindings without cycles."""
    rules = draw(
        st.lists(
            st.tuples(
                st.sampled_from(USERS + ROLES),
                st.sampled_from(["*", *DOMAINS]),
                paths(pattern=True),
                st.sampled_from(["*", *ACTIONS]),
                st.sampled_from(CONDITIONS),
                st.sampled_from(["allow", "allow", "deny"]),
            ),
            min_size=1,
            max_size=14,
        )
    )
    lines = []
    for number, (subject, domain, resource, action, condition, effect) in enumerate(rules):
        quoted = '"' + condition.replace('"', '""') + '"' if condition else ""
        lines.append(f"p, {subject}, {domain}, {resource}, {action}, {quoted}, {effect}, r{number}")
    links = draw(
        st.sets(
            st.tuples(
                st.sampled_from(USERS + ROLES),
                st.sampled_from(ROLES),
                st.sampled_from(["", *DOMAINS]),
            ).filter(lambda link: link[0] < link[1] or link[0] in USERS),
            max_size=8,
        )
    )
    for member, role, domain in sorted(links):
        lines.append(f"g, {member}, {role}, {domain}" if domain else f"g2, {member}, {role}")
    return "\n".join(lines) + "\n"


QUESTIONS = st.tuples(
    st.sampled_from([*USERS, "user:stranger"]),
    st.sampled_from([*DOMAINS, "elsewhere"]),
    paths(pattern=False),
    st.sampled_from([*ACTIONS, "unheard_of"]),
    ATTRIBUTES,
    st.integers(0, 7 * 24 * 60).map(lambda minutes: NOON + timedelta(minutes=minutes)),
)


def answer(engine: Engine, question: tuple) -> tuple[bool, str]:
    subject, domain, resource, action, attributes, now = question
    decision = engine.decide(
        subject=subject,
        domain=domain,
        resource=resource,
        action=action,
        attributes=attributes,
        now=now,
    )
    return decision.allowed, decision.rule_id


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "model", [DEFAULT_MODEL, FIRST_MATCH], ids=["deny-overrides", "first-match"]
)
@settings(
    max_examples=max(1, CASES // ASKED),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_compiled_engine_agrees_with_pycasbin(model: str, data: st.DataObject) -> None:
    """Same effect and same rule, for any rules and any requests."""
    rules = read_rules(data.draw(rule_sets()), read_model(model))
    engine = Engine(rules)
    assert engine.compiled
    oracle = Oracle(rules, [*DOMAINS, "elsewhere"])
    questions = data.draw(st.lists(QUESTIONS, min_size=ASKED, max_size=ASKED))
    for question in questions:
        assert answer(engine, question) == oracle.decide(*question)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_engine_that_was_changed_line_by_line_is_the_one_built_at_once(data: st.DataObject) -> None:
    """Lines taken out and put in leave what building from the result gives; the old one stays."""
    before = read_rules(data.draw(rule_sets()))
    after = read_rules(data.draw(rule_sets()))
    engine = Engine(before)
    places = dict(engine.lines())
    gone = [place for place, line in places.items() if line not in after.lines]
    kept = {line: place for place, line in places.items() if place not in gone}
    added, place = [], 0
    for line in after.lines:
        # Where a kept line stands before one that was put in, the new one goes right behind it.
        place = kept[line] if line in kept and kept[line] > place else place + 1
        if kept.get(line) != place:
            if line in kept:
                gone.append(kept[line])
            added.append((place, line))
    changed = engine.updated(gone, added)
    built = Engine(after)
    assert [line for _, line in changed.lines()] == list(after.lines)
    questions = data.draw(st.lists(QUESTIONS, min_size=20, max_size=20))
    first = [answer(Engine(before), question) for question in questions]
    assert [answer(changed, question) for question in questions] == [
        answer(built, question) for question in questions
    ]
    assert [answer(engine, question) for question in questions] == first


@settings(max_examples=100, deadline=None)
@given(text=rule_sets(), question=QUESTIONS, seed=st.integers(0, 2**32))
def test_answer_holds_until_it_says_it_may_change(text: str, question: tuple, seed: int) -> None:
    """No instant before `valid_until` gives another effect or another rule."""
    engine = Engine.from_csv(text)
    subject, domain, resource, action, attributes, now = question
    given_at = engine.decide(
        subject=subject,
        domain=domain,
        resource=resource,
        action=action,
        attributes=attributes,
        now=now,
    )
    until = given_at.valid_until or now + timedelta(days=400)
    chance = random.Random(seed)
    for _ in range(20):
        later = now + (until - now) * chance.random()
        asked = (
            subject,
            domain,
            resource,
            action,
            attributes,
            min(later, until - timedelta.resolution),
        )
        assert answer(engine, asked) == (given_at.allowed, given_at.rule_id)
