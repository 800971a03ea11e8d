"""The engine against its definition, written a second time and without Casbin."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Engine, Line, read_rules, to_csv
from aegis_policy.baseline import baseline_csv

SUBJECTS = ("user:ann", "user:bob", "role:a", "role:b", "role:c")
RESOURCES = ("/x", "/x/y", "/z")
PATTERNS = {
    "/x": {"/x"},
    "/x/*": {"/x/y"},
    "/x/**": {"/x", "/x/y"},
    "/*": {"/x", "/z"},
    "/**": set(RESOURCES),
}
CONDITIONS = {"": True, "ctx.n > 1": True, "ctx.n < 1": False, "ctx.missing == 1": None}

rules = st.lists(
    st.tuples(
        st.sampled_from(SUBJECTS),
        st.sampled_from(["*", "one", "two"]),
        st.sampled_from(sorted(PATTERNS)),
        st.sampled_from(["*", "read"]),
        st.sampled_from(sorted(CONDITIONS)),
        st.sampled_from(["allow", "deny"]),
    ),
    min_size=1,
    max_size=8,
)
links = st.sampled_from(
    [(low, high) for low in SUBJECTS for high in SUBJECTS[2:] if low < high or "user" in low]
)


def expected(lines: list[Line], subject: str, domain: str, resource: str) -> tuple[bool, str]:
    def reaches(kind: str, member: str, role: str) -> bool:
        return member == role or any(
            reaches(kind, line.fields[1], role)
            for line in lines
            if line.fields[0] == member
            and (line.kind == "g2" or (line.kind == kind == "g" and line.fields[2] == domain))
        )

    allowing = ""
    for line in lines:
        if line.kind != "p":
            continue
        who, where, pattern, _, condition, effect, rule_id = line.fields
        truth = CONDITIONS[condition]
        if (
            where in ("*", domain)
            and resource in PATTERNS[pattern]
            and (reaches("g", subject, who) or reaches("g2", subject, who))
            and (effect == "deny" if truth is None else truth)
        ):
            if effect == "deny":
                return False, rule_id
            allowing = rule_id
    return allowing != "", allowing


@settings(max_examples=120, deadline=None)
@given(rules, st.sets(links, max_size=4), st.sets(links, max_size=3))
def test_engine_decides_as_defined(
    rows: list[tuple[str, ...]], in_domain: set[tuple[str, str]], everywhere: set[tuple[str, str]]
) -> None:
    """Deny overrides, roles by domain and everywhere, patterns, conditions: decision and rule."""
    lines = [Line("p", (*row, f"rule-{number}")) for number, row in enumerate(rows)]
    lines += [Line("g", (*link, "one")) for link in sorted(in_domain)]
    lines += [Line("g2", link) for link in sorted(everywhere)]
    engine = Engine.from_csv(to_csv(lines))
    for subject in ("user:ann", "user:bob", "user:eve"):
        for domain in ("one", "two"):
            for resource in RESOURCES:
                answer = engine.decide(
                    subject=subject,
                    domain=domain,
                    resource=resource,
                    action="read",
                    attributes={"n": 2},
                )
                assert (answer.allowed, answer.rule_id) == expected(
                    lines, subject, domain, resource
                )
                if not engine.knows(subject):
                    assert (answer.allowed, answer.rule_id) == (False, "")


def test_roles_of_a_subject_are_those_of_the_domain_and_those_of_everywhere() -> None:
    """A role given in one domain says nothing in another."""
    engine = Engine.from_csv(
        "p, role:a, *, /x, read, , allow, x\n"
        "g, user:ann, role:a, one\ng, role:a, role:b, one\ng2, user:ann, role:c\n"
    )
    assert engine.roles_of("user:ann", "one") == {"role:a", "role:b", "role:c"}
    assert engine.roles_of("user:ann", "two") == {"role:c"}


def test_role_given_in_one_domain_is_held_by_what_binds_that_role_everywhere() -> None:
    """Guard rails are bound to role:operator by g2; an operator by g must not slip past them."""
    engine = Engine.from_csv(baseline_csv() + "g, user:olga, role:operator, aegis\n")
    start = {"subject": "user:olga", "resource": "/training/runs", "action": "start"}
    careless = {"review": "off", "simulation": False, "target_epsilon": 8.0}
    refused = engine.decide(**start, domain="aegis", attributes=careless)
    assert (refused.allowed, refused.rule_id) == (False, "no-run-without-review")
    assert engine.decide(**start, domain="aegis", attributes=careless | {"review": "on"}).allowed
    assert not engine.decide(
        **start, domain="other", attributes=careless | {"review": "on"}
    ).allowed
    assert engine.roles_of("user:olga", "aegis") == {
        "role:operator",
        "role:guarded",
        "role:viewer",
    }


def test_only_attributes_that_a_condition_reads_are_relevant() -> None:
    """What no rule can see cannot change an answer."""
    engine = Engine.from_csv("p, user:ann, *, /x, read, ctx.a.b == 1, allow, x\n")
    assert engine.relevant({"a": {"b": 1}, "request_id": "r"}) == {"a": {"b": 1}}


def test_time_without_its_zone_is_refused() -> None:
    """A naive time would be read in whatever zone the machine happens to be."""
    engine = Engine.from_csv("p, user:ann, *, /x, read, , allow, x\n")
    with pytest.raises(ValueError, match="zone"):
        engine.decide(
            subject="user:ann",
            domain="one",
            resource="/x",
            action="read",
            now=datetime(2026, 1, 1),
        )


def test_canonical_text_of_rules_reads_back_the_same() -> None:
    """What is stored and handed out is what was imported."""
    text = 'p, user:ann, *, /x, read, "ctx.a in [""x, y"", \'z\']", allow, x\n'
    assert to_csv(read_rules(text).lines) == text


@settings(max_examples=100, deadline=None)
@given(
    rules,
    st.sets(links, max_size=3),
    st.sets(links, max_size=3),
    st.sets(st.sampled_from(SUBJECTS[2:])),
)
def test_role_held_beside_the_rules_is_as_good_as_one_bound_by_them(
    rows: list[tuple[str, ...]],
    in_domain: set[tuple[str, str]],
    everywhere: set[tuple[str, str]],
    held: set[str],
) -> None:
    """A directory that gives a role and a line that binds it everywhere decide alike."""
    lines = [Line("p", (*row, f"rule-{number}")) for number, row in enumerate(rows)]
    lines += [Line("g", (*link, "one")) for link in sorted(in_domain)]
    lines += [Line("g2", link) for link in sorted(everywhere)]
    extra = [Line("g2", ("user:ann", role)) for role in sorted(held)]
    told = Engine.from_csv(to_csv(lines))
    bound = Engine.from_csv(to_csv([*lines, *(line for line in extra if line not in lines)]))
    for domain in ("one", "two"):
        for resource in RESOURCES:
            asked = {"subject": "user:ann", "domain": domain, "resource": resource}
            by_directory = told.decide(**asked, action="read", attributes={"n": 2}, roles=held)
            assert by_directory == bound.decide(**asked, action="read", attributes={"n": 2})
        assert told.roles_of("user:ann", domain, held) == bound.roles_of("user:ann", domain)
