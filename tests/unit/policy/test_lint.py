"""Lint: every check finds what it is for, and keeps quiet about what is meant."""

from __future__ import annotations

import operator
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy import Engine, Line, PolicyError, RuleFile, read_rules
from aegis_policy.baseline import baseline_csv
from aegis_policy.lint import Finding, Reading, lint, lint_csv
from aegis_policy.lint.coverage import coverage_findings
from aegis_policy.lint.survey import Survey
from aegis_policy.models import DEFAULT_MODEL, read_model

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
# Somebody may write the rules, so that only what a test is about is found.
ADMIN = "p, user:root, aegis, /policy, write, , allow, root-writes\n"

_EFFECT = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
IN_ORDER = read_model(DEFAULT_MODEL.replace(_EFFECT, "priority(p.eft) || deny"))
OWN = """
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.sub == p.sub && resMatch(r.obj, p.obj) && r.act == p.act
"""


def found(lines: str, **known: object) -> list[tuple[str, str, int, str]]:
    findings = lint(read_rules(ADMIN + lines), now=NOW, **known)
    return [(each.severity, each.check, each.line, each.text) for each in findings]


def checks(lines: str, **known: object) -> list[tuple[str, str, int]]:
    return [each[:3] for each in found(lines, **known)]


def test_baseline_has_nothing_to_mend() -> None:
    """The rules of a fresh installation give notes only: who may do all, and roles of people."""
    findings = lint(read_rules(baseline_csv()), now=NOW)
    assert {each.severity for each in findings} == {"note"}
    assert {each.check for each in findings} == {"over-broad", "unbound-role"}


def test_findings_have_the_line_of_the_file_and_the_rule() -> None:
    """Comments and blank lines count, so that an editor finds the place."""
    text = "# rules\n\n" + ADMIN + "\np, user:ann, *, /**, *, , allow, ann-may-all\n"
    (finding,) = lint(read_rules(text), now=NOW)
    assert finding == Finding(
        "warning",
        "over-broad",
        5,
        1,
        "ann-may-all",
        "user:ann may do everything in every tenant, change these rules too",
    )


def test_rules_without_a_text_count_their_lines() -> None:
    """What comes from a database has places of its own: the first line is line 1."""
    lines = read_rules(ADMIN + "p, user:ann, *, /**, *, , allow, x\n").lines
    assert [each.line for each in lint(RuleFile(lines, {}), now=NOW)] == [2]


UNREACHABLE = [
    # the same subject; its role; a wider pattern, action and tenant; the same condition
    "p, user:ann, *, /a/b, read, , deny, no\np, user:ann, *, /a/b, read, , allow, yes\n",
    (
        "g2, user:ann, role:x\np, role:x, *, /a/b, read, , deny, no\n"
        "p, user:ann, *, /a/b, read, , allow, yes\n"
    ),
    (
        "g, user:ann, role:x, acme\np, role:x, acme, /a/b, read, , deny, no\n"
        "p, user:ann, acme, /a/b, read, , allow, yes\n"
    ),
    "p, user:ann, *, /a/**, *, , deny, no\np, user:ann, acme, /a, read, , allow, yes\n",
    "p, user:ann, *, /*/b, read, , deny, no\np, user:ann, *, /a/b, read, , allow, yes\n",
    "p, user:ann, *, /a/**, read, , deny, no\np, user:ann, *, /a/*/**, read, , allow, yes\n",
    (
        "p, user:ann, *, /a, read, ctx.b == 1, deny, no\n"
        "p, user:ann, *, /a, read, ctx.b==1, allow, yes\n"
    ),
]


@pytest.mark.parametrize("lines", UNREACHABLE)
def test_allow_that_a_deny_wholly_covers_is_unreachable(lines: str) -> None:
    """Such an allow can be read and never counts."""
    assert [text for _, check, _, text in found(lines) if check == "unreachable-rule"] == [
        f"never allows anything: no in line {3 if lines.startswith('g') else 2} denies all of it"
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "p, user:ann, *, /a/b, read, ctx.c, deny, no\np, user:ann, *, /a/b, read, , allow, yes\n",
        "p, user:ann, *, /a/b, read, , deny, no\np, user:ann, *, /a/*, read, , allow, yes\n",
        "p, user:ann, *, /a/b, read, , deny, no\np, user:ann, *, /a/b, *, , allow, yes\n",
        "p, user:ann, acme, /a/b, read, , deny, no\np, user:ann, *, /a/b, read, , allow, yes\n",
        "p, user:ann, *, /a/*, read, , deny, no\np, user:ann, *, /a/**, read, , allow, yes\n",
        "p, user:ann, *, /a/*/**, read, , deny, no\np, user:ann, *, /a, read, , allow, yes\n",
        (
            "g, user:ann, role:x, acme\np, role:x, *, /a/b, read, , deny, no\n"
            "p, user:ann, *, /a/b, read, , allow, yes\n"
        ),
        (
            "g2, user:ann, role:x\np, user:ann, *, /a/b, read, , deny, no\n"
            "p, role:x, *, /a/b, read, , allow, yes\n"
        ),
    ],
)
def test_allow_that_a_deny_covers_in_part_is_left_alone(lines: str) -> None:
    """An exception to a permission is what denies are for."""
    assert "unreachable-rule" not in {check for _, check, _ in checks(lines)}


def test_allow_that_a_wider_allow_covers_is_shadowed() -> None:
    """It adds nothing, and taking it away takes nothing away."""
    lines = (
        "g2, user:ann, role:x\np, user:ann, acme, /a/b, read, ctx.c, allow, narrow\n"
        "p, role:x, *, /a/**, *, , allow, wide\n"
    )
    assert found(lines) == [
        ("warning", "shadowed-rule", 3, "adds nothing: wide in line 4 allows all of it")
    ]


def test_deny_after_a_wider_deny_is_noted() -> None:
    """It is never the one that a refusal names; before the wider one it is."""
    wide = "p, user:ann, *, /a/**, read, , deny, wide\n"
    narrow = "p, user:ann, *, /a/b, read, , deny, narrow\n"
    allow = "p, user:ann, *, /**, read, , allow, all\n"
    assert checks(wide + narrow + allow) == [("note", "shadowed-rule", 3)]
    assert checks(narrow + wide + allow) == []


def test_rule_that_is_over_shadows_nothing() -> None:
    """A permission that has ended is no reason to remove the one that replaced it."""
    period = "\"between('2025-01-01T00:00:00Z', '2025-02-01T00:00:00Z')\""
    lines = (
        f"p, user:ann, *, /a/**, read, {period}, allow, old\n"
        f"p, user:ann, *, /a/b, read, {period}, allow, older\n"
    )
    assert checks(lines) == [("warning", "expired-rule", 2), ("warning", "expired-rule", 3)]


def test_rule_that_says_the_same_twice_is_a_duplicate() -> None:
    """Whatever its id, its layout, its quotes, and the order of a list."""
    lines = (
        "p, user:ann, *, /a, read, \"ctx.b in ['x', 'y']\", allow, one\n"
        'p, user:ann, *, /a, read, "ctx.b in [""y"",""x""]", allow, two\n'
    )
    assert found(lines) == [("warning", "duplicate-rule", 3, "says the same as one in line 2")]


def test_conditions_in_another_order_are_not_the_same() -> None:
    """`a and b` has no answer where `b and a` is false, and a deny tells them apart."""
    lines = (
        "p, user:ann, *, /a, read, ctx.b and ctx.c, deny, one\n"
        "p, user:ann, *, /a, read, ctx.c and ctx.b, deny, two\n"
        "p, user:ann, *, /a, read, , allow, three\n"
    )
    assert checks(lines) == []


def test_binding_in_one_tenant_of_what_is_held_everywhere_is_a_duplicate() -> None:
    """Removing it would not remove the role."""
    lines = "g, user:ann, role:x, acme\ng2, user:ann, role:x\np, role:x, *, /a, read, , allow, y\n"
    assert checks(lines) == [("warning", "duplicate-binding", 2)]


def test_role_that_no_rule_speaks_of_is_unknown() -> None:
    """A binding to a misspelt role gives nothing; the nearest role is named."""
    lines = "g2, user:ann, role:oprator\ng2, user:bob, role:operator\n"
    rule = "p, role:operator, *, /a, read, , allow, y\n"
    assert found(lines + rule) == [
        (
            "warning",
            "unknown-role",
            2,
            "no rule speaks of role:oprator; was role:operator meant?",
        )
    ]


def test_role_that_leads_to_a_role_with_rules_is_known() -> None:
    """A role may be there for what it leads to alone, in one tenant, too."""
    lines = "g2, user:ann, role:x\ng, role:x, role:y, acme\np, role:y, acme, /a, read, , allow, z\n"
    assert checks(lines) == []


def test_rule_of_a_misspelt_role_is_found() -> None:
    """Nobody has it, and somebody has one that is written nearly so."""
    lines = "g2, user:ann, role:operator\np, role:operator, *, /a, read, , allow, y\n"
    typo = "p, role:opreator, *, /b, read, , allow, z\n"
    assert [(check, line) for _, check, line, _ in found(lines + typo)] == [("unknown-role", 4)]
    assert "was role:operator meant?" in found(lines + typo)[0][3]


def test_rule_of_a_role_that_nobody_has_is_a_note_or_a_warning() -> None:
    """A directory may give it, unless it is known what that gives; told once a role."""
    lines = "p, role:x, *, /a, read, , allow, y\np, role:x, *, /b, read, , allow, z\n"
    assert checks(lines) == [("note", "unbound-role", 2)]
    assert checks(lines, known_roles=["role:other"]) == [("warning", "unreachable-rule", 2)]
    assert checks(lines, known_roles=["role:x"]) == []
    assert checks("g2, role:held, role:x\n" + lines, known_roles=["role:held"]) == []


def test_rule_for_a_tenant_that_nobody_is_in_is_found() -> None:
    """The role is somebody's, but not there."""
    lines = "g, user:ann, role:x, acme\np, role:x, acne, /a, read, , allow, y\n"
    assert found(lines + "p, role:x, acme, /a, read, , allow, z\n") == [
        ("warning", "empty-tenant", 3, "nobody is role:x in tenant acne")
    ]
    everywhere = "g2, user:ann, role:x\np, role:x, acne, /a, read, , allow, y\n"
    assert checks(everywhere) == []


def test_action_that_is_not_known_is_found() -> None:
    """By the list, where there is one; else by its likeness to one that several rules name."""
    lines = (
        "p, user:ann, *, /a, restart_pod, , allow, a\np, user:ann, *, /b, restart_pod, , allow, b\n"
        "p, user:ann, *, /c, restart_pods, , allow, c\np, user:ann, *, /d, dance, , allow, d\n"
    )
    assert [each[:3] for each in found(lines)] == [("note", "unknown-action", 4)]
    assert "was restart_pod meant?" in found(lines)[0][3]
    known = checks(lines, known_actions={"restart_pod", "write"})
    assert known == [("warning", "unknown-action", 4), ("warning", "unknown-action", 5)]


def test_obligation_that_obliges_nobody_is_told() -> None:
    """Also where all actions are known; a good one is in no list, and is no misspelt action."""
    bad = "p, user:ann, *, /a, without_oncall, , deny, a\n"
    good = (
        "p, user:ann, *, /a, without_1_oncall, , deny, b\n"
        "p, user:ann, *, /a, step2_without_signed_2_owners, , deny, c\n"
        "p, user:bob, *, /a, read, , allow, d\n"
    )
    for known in ({}, {"known_actions": {"write", "read"}}):
        told = [each for each in checks(bad + good, **known) if each[2] != 2]
        assert told == []
        assert ("warning", "malformed-obligation", 2) in checks(bad + good, **known)
    nowhere = "p, user:ann, *, /b, without_1_oncall, , deny, b\n"
    assert checks(nowhere) == [("note", "idle-deny", 2)]


def test_everything_on_everything_is_over_broad() -> None:
    """Whoever may change the rules may do whatever they like; administrators are noted only."""
    everything = "p, {}, {}, /**, *, {}, allow, x\n".format
    assert checks(everything("user:ann", "*", "")) == [("warning", "over-broad", 2)]
    conditional = found(everything("user:ann", "*", "ctx.a"))
    assert "where its condition holds" in conditional[0][3]
    assert "change these rules" not in found(everything("user:ann", "acme", ""))[0][3]
    admins = "g2, user:ann, role:admin\n" + everything("role:admin", "*", "")
    assert checks(admins) == [("note", "over-broad", 3)]
    assert checks("p, user:ann, *, /a/**, *, , allow, x\n") == []


def rule_between(begin: str, end: str, more: str = "") -> str:
    return f"p, user:ann, *, /a, read, \"between('{begin}', '{end}'){more}\", allow, x\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (rule_between("2026-01-01T00:00:00Z", "2026-03-02T12:00:00Z"), ("warning", "expired-rule")),
        (
            rule_between("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", " and ctx.a"),
            ("warning", "expired-rule"),
        ),
        (rule_between("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", " or ctx.a"), None),
        (rule_between("2026-01-01T00:00:00Z", "2026-03-02T12:00:01Z"), None),
        (rule_between("2026-03-02T12:00:00Z", "2026-04-01T00:00:00Z"), None),
        (rule_between("2026-03-03T00:00:00Z", "2026-04-01T00:00:00Z"), ("note", "not-yet-active")),
        (
            rule_between(
                "2027-01-01T00:00:00Z",
                "2027-02-01T00:00:00Z",
                " and between('2028-01-01T00:00:00Z', '2028-02-01T00:00:00Z')",
            ),
            ("warning", "expired-rule"),
        ),
    ],
)
def test_period_that_is_over_or_to_come_is_told(
    line: str, expected: tuple[str, str] | None
) -> None:
    """Only a period that the condition cannot hold without."""
    assert [each[:2] for each in checks(line)] == ([expected] if expected else [])


LOCKED = [
    "p, user:ann, *, /policy, read, , allow, x\n",
    "p, user:ann, acme, /policy, write, , allow, x\n",
    "p, user:ann, *, /policy, write, , allow, x\np, user:ann, *, /**, *, , deny, y\n",
    rule_between("2025-01-01T00:00:00Z", "2025-02-01T00:00:00Z")
    .replace("/a, read", "/policy, write")
    .replace("allow, x", "allow, w"),
]


@pytest.mark.parametrize("lines", LOCKED)
def test_rules_that_nobody_could_change_again_are_an_error(lines: str) -> None:
    """No subject is left that writes /policy in domain aegis."""
    findings = lint(read_rules(lines), now=NOW)
    assert [(each.severity, each.line) for each in findings if each.check == "lock-out"] == [
        ("error", 0)
    ]


def test_conditional_deny_locks_nobody_out() -> None:
    """Somebody may still be let through."""
    lines = (
        "p, user:ann, *, /policy, write, , allow, x\np, user:ann, *, /policy, *, ctx.a, deny, y\n"
    )
    assert lint(read_rules(lines), now=NOW) == []


def test_rules_that_only_a_directory_opens_are_a_warning() -> None:
    """Nobody in the file is an administrator; with the directory known it is certain."""
    text = "g2, user:ann, role:boss\ng2, user:ann, role:x\n"
    rules = read_rules(
        text + "p, role:boss, *, /policy, write, , allow, x\np, role:x, *, /**, *, , deny, y\n"
    )

    def lockout(**known: object) -> list[str]:
        findings = lint(rules, now=NOW, **known)
        return [each.severity for each in findings if each.check == "lock-out"]

    assert lockout() == ["warning"]
    assert lockout(known_roles=["role:boss"]) == []
    assert lockout(known_roles=["role:other"]) == ["error"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("p, user:ann, *, /prod/\u0430dmin, read, , allow, x", "mixes letters: cyrillic, latin"),
        ("p, user:ann, *, /\uff50rod, read, , allow, x", "another form than they are typed"),
        ("p, user:ann, *, /\u0441\u043e\u0440\u0430, read, , allow, x", "looks like 'copa'"),
        ("p, user:ann, *, /a, read, ctx.b == 'pr\u043ed', allow, x", "mixes letters"),
    ],
)
def test_letter_of_another_script_is_found(line: str, words: str) -> None:
    """A rule with it reads as one thing and matches another; the code point is named."""
    ((severity, check, number, text),) = found(line + "\n")
    assert (severity, check, number) == ("warning", "look-alike", 2)
    assert words in text
    assert "U+" in text


def test_resource_that_imitates_another_one_is_named_with_it() -> None:
    """The plain name is taken for the one that was meant."""
    lines = "p, user:ann, *, /a\u2010b, read, , deny, x\np, user:ann, *, /a-b, read, , allow, y\n"
    assert [text for _, check, _, text in found(lines) if check == "look-alike"] == [
        "'a\u2010b' (U+2010) looks like 'a-b', and is another name"
    ]


@pytest.mark.parametrize(
    "segment", ["größe", "données", "東京", "カタカナtest", "привет", "Ωmega-x"[1:]]
)
def test_other_languages_are_welcome(segment: str) -> None:
    """A name that is what it looks like is nobody's business."""
    assert checks(f"p, user:ann, *, /{segment}, read, , allow, x\n") == []


@pytest.mark.parametrize(("one", "other"), [("ann", "Ann"), ("bi11", "bill"), ("B0B", "BOB")])
def test_subjects_that_look_the_same_are_found(one: str, other: str) -> None:
    """Case counts in names, and so do digits."""
    lines = f"p, user:{one}, *, /a, read, , allow, x\np, user:{other}, *, /b, read, , allow, y\n"
    assert [each[:3] for each in found(lines)] == [("warning", "look-alike", 3)]


def test_deny_of_what_nobody_may_is_noted() -> None:
    """It denies nothing today; perhaps its path is misspelt."""
    lines = "p, user:ann, *, /a/*, read, , allow, x\np, user:ann, *, {}, {}, , deny, y\n"
    for resource, action in (("/b/c", "read"), ("/a/b", "write"), ("/a", "*"), ("/a/b/c/**", "*")):
        assert checks(lines.format(resource, action)) == [("note", "idle-deny", 3)]
    for resource, action in (("/a/b", "read"), ("/*/b", "*"), ("/**", "*"), ("/a/b/**", "read")):
        assert "idle-deny" not in {each[1] for each in checks(lines.format(resource, action))}


def test_first_match_reads_the_rules_in_their_order() -> None:
    """There a rule is unreachable when an earlier one, of either effect, takes all of it."""
    wide, narrow = (
        "p, user:ann, *, /a/**, read, , {}, wide\n",
        "p, user:ann, *, /a/b, read, , {}, narrow\n",
    )

    def read(text: str) -> list[tuple[str, int]]:
        findings = lint(read_rules(ADMIN + text, IN_ORDER), now=NOW)
        return [(each.check, each.line) for each in findings]

    assert read(wide.format("allow") + narrow.format("deny")) == [("unreachable-rule", 3)]
    assert read(wide.format("deny") + narrow.format("allow")) == [("unreachable-rule", 3)]
    assert read(wide.format("allow") + narrow.format("allow")) == [("shadowed-rule", 3)]
    assert read(narrow.format("deny") + wide.format("allow")) == []


def test_same_condition_does_not_hide_a_deny_behind_an_allow() -> None:
    """What cannot be answered passes the allow by, and stops at the deny."""
    lines = "p, user:ann, *, /a, read, ctx.b, allow, x\np, user:ann, *, /a, read, ctx.b, deny, y\n"
    assert lint(read_rules(ADMIN + lines, IN_ORDER), now=NOW) == []


def test_model_of_its_own_is_noted_and_its_rules_are_not_judged() -> None:
    """What such rules mean only PyCasbin knows."""
    (finding,) = lint_csv("p, ann, /**, *\n", OWN, now=NOW)
    assert (finding.severity, finding.check) == ("note", "own-model")


def test_file_that_does_not_parse_gives_its_faults_as_errors() -> None:
    """Each with line and column, as an import would refuse it."""
    text = ADMIN + "p, x, *, /a, Read, , allow, y\ng2, user:ann, nobody\n"
    findings = lint_csv(text, now=NOW)
    assert [(each.severity, each.check, each.line, each.column) for each in findings] == [
        ("error", "invalid", 2, 4),
        ("error", "invalid", 2, 14),
        ("error", "invalid", 3, 15),
    ]


def test_model_that_cannot_be_used_gives_an_error() -> None:
    """A model whose effect could allow without a rule is refused here as well."""
    bad = DEFAULT_MODEL.replace("some(where (p.eft == allow)) && ", "")
    findings = lint_csv(ADMIN, bad, now=NOW)
    assert [(each.severity, each.check) for each in findings] == [("error", "invalid")]
    assert lint_csv(ADMIN, DEFAULT_MODEL, now=NOW) == []


def large(count: int) -> RuleFile:
    """Rules of 200 roles over 50 clusters, many of them inside others."""
    lines = [Line("g2", (f"user:u{n}", f"role:r{n % 200}")) for n in range(count // 10)]
    for n in range(count - len(lines)):
        namespace = "*" if n % 7 == 0 else f"n{n % 89}"
        resource = f"/clusters/c{n % 50}/{namespace}/pods/{'**' if n % 3 else '*'}"
        effect = "deny" if n % 11 == 0 else "allow"
        fields = (f"role:r{n % 199}", "*", resource, "read", "", effect, f"rule-{n}")
        lines.append(Line("p", fields))
    return RuleFile(tuple(lines), {})


def test_ten_thousand_rules_take_a_few_seconds() -> None:
    """Rules are looked up by what could cover them, not compared each with each."""
    began = time.process_time()
    assert lint(large(10_000), now=NOW)
    assert time.process_time() - began < 5


def test_rules_made_to_be_slow_stop_after_a_bounded_number_of_steps() -> None:
    """The rest of the findings still comes, and the note says what is missing."""
    survey = Survey(large(2_000))
    findings = list(coverage_findings(survey, Reading.DENY_OVERRIDES, NOW, steps_max=1_000))
    assert [each.check for each in findings][-1] == "not-all-compared"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user:ann", "role:a", "role:b"]),
            st.sampled_from(["*", "aegis", "acme"]),
            st.builds(
                operator.add,
                st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3),
                st.sampled_from([[], ["**"]]),
            ),
            st.sampled_from(["*", "read", "write"]),
            st.sampled_from(["", "ctx.x", "not ctx.x"]),
            st.sampled_from(["allow", "deny"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "g2, user:ann, role:a\n", "g2, user:ann, role:a\ng2, role:a, role:b\n"]),
)
def test_rule_that_lint_calls_pointless_changes_no_answer(
    drawn: list[tuple[str, str, list[str], str, str, str]], bindings: str
) -> None:
    """Without the allows that never count or add nothing, every answer is the same."""
    lines = [
        f"p, {who}, {where}, /{'/'.join(steps)}, {act}, {condition}, {effect}, r{n}\n"
        for n, (who, where, steps, act, condition, effect) in enumerate(drawn)
    ]
    text = bindings + "".join(lines) + "p, user:end, *, /end, end, , deny, end\n"
    pointless = {
        each.rule_id
        for each in lint(read_rules(text), now=NOW)
        if each.check in ("unreachable-rule", "duplicate-rule", "shadowed-rule")
    }
    kept = "".join(line for n, line in enumerate(lines) if f"r{n}" not in pointless)
    before = Engine.from_csv(text)
    after = Engine.from_csv(bindings + kept + "p, user:end, *, /end, end, , deny, end\n")
    for resource in ("/a", "/b", "/a/a", "/a/b", "/b/a/c", "/c"):
        for attributes in ({}, {"x": True}, {"x": False}):
            question = {
                "subject": "user:ann",
                "resource": resource,
                "action": "read",
                "attributes": attributes,
            }
            for domain in ("aegis", "acme"):
                first = before.decide(domain=domain, **question)
                assert first.allowed == after.decide(domain=domain, **question).allowed


@given(st.text(alphabet="pg2, \"'\n#:/*abuserolx=.\u0430\u00e9", max_size=120))
def test_any_text_can_be_linted(text: str) -> None:
    """No input makes lint fail: it is found faulty, or it is judged."""
    findings = lint_csv(ADMIN + text, now=NOW)
    invalid = [each for each in findings if each.check == "invalid"]
    try:
        read_rules(ADMIN + text)
    except PolicyError:
        assert invalid == findings != []
    else:
        assert invalid == []
