"""Differences: what changed, in words, by the ids of rules and not by lines of text."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy import Line, read_rules
from aegis_policy.baseline import baseline_csv
from aegis_policy.differences import Difference, differences

KEEP = "p, user:root, *, /policy, write, , allow, root-writes\n"
ALLOW = "p, role:operator, *, /clusters/**, restart_pod, , allow, x\n"


def said(before: str, after: str, *, first_match: bool = False) -> list[str]:
    found = differences(
        read_rules(KEEP + before).lines, read_rules(KEEP + after).lines, first_match=first_match
    )
    return [each.text for each in found]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (
            ALLOW,
            "",
            "role:operator may no longer restart_pod on /clusters/** in every tenant (rule x)",
        ),
        ("", ALLOW, "role:operator may now restart_pod on /clusters/** in every tenant (rule x)"),
        (
            "",
            "p, user:ann, acme, /a, *, ctx.b, deny, x\n",
            "user:ann is now forbidden to do anything on /a in tenant acme when ctx.b (rule x)",
        ),
        (
            "p, user:ann, *, /a, read, , deny, x\n",
            "",
            "user:ann is no longer forbidden to read on /a in every tenant (rule x)",
        ),
        ("", "g2, user:ann, role:admin\n", "user:ann becomes role:admin everywhere"),
        ("g2, user:ann, role:admin\n", "", "user:ann is no longer role:admin everywhere"),
        ("", "g, user:ann, role:admin, acme\n", "user:ann becomes role:admin in tenant acme"),
        (ALLOW, ALLOW.replace("allow", "deny"), "rule x: it now denies, and allowed before"),
        (ALLOW.replace("allow", "deny"), ALLOW, "rule x: it now allows, and denied before"),
        (
            ALLOW,
            ALLOW.replace("role:operator", "role:a"),
            "rule x: it is now about role:a, was about role:operator",
        ),
        (
            ALLOW,
            ALLOW.replace("restart_pod", "*"),
            "rule x: the action is now any, was restart_pod",
        ),
        (
            ALLOW,
            ALLOW.replace("clusters", "c").replace("*, /", "acme, /"),
            (
                "rule x: the resource is now /c/**, was /clusters/**;"
                " it now counts in tenant acme, before in every tenant"
            ),
        ),
        (ALLOW, ALLOW.replace(", ,", ", ctx.a,"), "rule x: it now counts only when ctx.a"),
        (
            ALLOW.replace(", ,", ", ctx.a,"),
            ALLOW,
            "rule x: it now counts always, before only when ctx.a",
        ),
        (
            ALLOW.replace(", ,", ", ctx.a,"),
            ALLOW.replace(", ,", ", not ctx.a,"),
            "rule x: the condition is now not ctx.a, was ctx.a",
        ),
    ],
)
def test_change_is_said_in_words(before: str, after: str, text: str) -> None:
    """As a person would tell another one."""
    assert said(before, after) == [text]


def test_difference_has_the_lines_of_both_sides() -> None:
    """What was and what is, as lines of a rule file, quoted where they need it."""
    before = read_rules(KEEP + "p, user:ann, *, /a, read, \"ctx.b in ['x', 'y']\", allow, x\n")
    after = read_rules(KEEP + "p, user:ann, *, /a, read, , allow, x\n")
    (difference,) = differences(before.lines, after.lines)
    assert difference == Difference(
        "rule x: it now counts always, before only when ctx.b in ['x', 'y']",
        "p, user:ann, *, /a, read, \"ctx.b in ['x', 'y']\", allow, x",
        "p, user:ann, *, /a, read, , allow, x",
    )
    (gone,) = differences(after.lines, after.lines[:1])
    assert (gone.before, gone.after) == ("p, user:ann, *, /a, read, , allow, x", "")


def deny(rule_id: str, resource: str = "/a/**", effect: str = "deny") -> str:
    return f"p, user:ann, *, {resource}, read, , {effect}, {rule_id}\n"


def test_move_is_told_where_an_answer_would_name_another_rule() -> None:
    """Two denies of the same request: the first of them is named."""
    assert said(deny("x") + deny("y", "/a/b"), deny("y", "/a/b") + deny("x")) in (
        ["rule x moved after y: which rule an answer names may differ"],
        ["rule y moved before x: which rule an answer names may differ"],
    )
    three = deny("x") + deny("y") + deny("z")
    assert said(three, deny("z") + deny("x") + deny("y")) == [
        "rule z moved before x: which rule an answer names may differ"
    ]
    assert said(three, deny("y") + deny("z") + deny("x")) == [
        "rule x moved after z: which rule an answer names may differ"
    ]


def test_move_that_changes_no_answer_is_not_told() -> None:
    """Rules that never match the same request, or of different effects, have no order."""
    apart = deny("x", "/a/b"), deny("y", "/a/c")
    assert said("".join(apart), "".join(reversed(apart))) == []
    effects = deny("x"), deny("y", effect="allow")
    assert said("".join(effects), "".join(reversed(effects))) == []
    assert said(deny("x") + "g2, user:ann, role:a\n", "g2, user:ann, role:a\n" + deny("x")) == []


def test_order_of_effects_matters_where_the_first_match_decides() -> None:
    """There a move past a rule of the other effect can turn an answer."""
    effects = deny("x"), deny("y", effect="allow")
    (text,) = said("".join(effects), "".join(reversed(effects)), first_match=True)
    assert text.endswith("which rule decides may differ")


def test_many_moves_are_told_by_their_number() -> None:
    """Who sorts a file anew gets one line, not thousands."""
    lines = [deny(f"r{n}") for n in range(200)]
    (text,) = said("".join(lines), "".join(reversed(lines)))
    assert text == "199 rules have another place: which rule an answer names may differ"


def test_lines_of_a_model_of_its_own_are_told_as_they_are() -> None:
    """What they mean is not known here."""
    before, after = Line("p", ("ann", "/a", "read")), Line("p", ("ann", "/b", "read"))
    assert [each.text for each in differences([before], [after])] == [
        "the line 'p, ann, /a, read' is gone",
        "the line 'p, ann, /b, read' is new",
    ]


def test_same_rules_have_no_difference() -> None:
    """Layout and comments are none."""
    rules = read_rules(baseline_csv())
    assert differences(rules.lines, read_rules(rules.to_csv()).lines) == []


@given(st.permutations(range(8)))
def test_as_few_rules_as_possible_are_called_moved(order: list[int]) -> None:
    """Putting back those that are told makes the old order again."""
    lines = [deny(f"r{n}") for n in range(8)]
    texts = said("".join(lines), "".join(lines[n] for n in order))
    moved = {text.split(" ")[1] for text in texts}
    stayed = [n for n in order if f"r{n}" not in moved]
    assert stayed == sorted(stayed)
    assert (moved == set()) == (order == list(range(8)))


def test_hundred_thousand_lines_are_compared_quickly() -> None:
    """By id and by identity: no line is looked for in a list."""
    lines = [
        Line("p", (f"user:u{n}", "*", f"/a/b{n}", "read", "", "allow", f"r{n}"))
        for n in range(100_000)
    ]
    changed = list(lines)
    for at in Random(1).sample(range(100_000), 3):
        changed.insert(0, changed.pop(at))
    assert differences(lines, changed) == []
