"""Rule files: strict, all faults at once, and nothing Casbin would quietly drop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy import Line, PolicyError, read_rules, to_csv

GOOD = "p, user:ann, *, /a, read, , allow, ann-reads\n"


def faults(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(PolicyError) as caught:
        read_rules(text)
    return [(bad.line, bad.column, bad.expected) for bad in caught.value.violations]


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("P, user:ann, *, /a, read, , deny, x", 1, 'expected "p", "g" or "g2"'),
        ("p2, user:ann, *, /a, read, , deny, x", 1, 'expected "p", "g" or "g2"'),
        ("p, user:ann, *, /a, read, deny, x", 1, "expected 7 fields"),
        ("p, user:ann, *, /a, read, , deny, x, more", 1, "expected 7 fields"),
        ("p, user:ann, *, /a, read, ctx.a in [1, 2], deny, x", 1, "goes in double quotes"),
        ("p, user:ann, *, /a, read, , Deny, x", 29, 'exactly "allow" or "deny"'),
        ("p, user:ann, *, /a, read, , denied, x", 29, 'exactly "allow" or "deny"'),
        ("p, user:ann, *, /a, read, , deny # why, x", 29, 'exactly "allow" or "deny"'),
        ('p, user:ann, *, /a, read, , "deny ", x', 30, 'exactly "allow" or "deny"'),
        ("p, user:ann, *, /a, read, ctx.a ==, deny, x", 35, "expected a value"),
        ("p, ann, *, /a, read, , deny, x", 4, "expected a subject"),
        ("p, User:ann, *, /a, read, , deny, x", 4, "expected a subject"),
        ("p, user:ann, Tenant, /a, read, , deny, x", 14, "expected a domain"),
        ("p, user:ann, *, a, read, , deny, x", 17, "expected a path"),
        ("p, user:ann, *, /a/, read, , deny, x", 17, 'no trailing "/"'),
        ("p, user:ann, *, /a//b, read, , deny, x", 17, 'no empty, "."'),
        ("p, user:ann, *, /a/../b, read, , deny, x", 17, 'no empty, "."'),
        ("p, user:ann, *, /a/**/b, read, , deny, x", 17, '"**" may only be the last'),
        ("p, user:ann, *, /a/b*, read, , deny, x", 17, "whole segment"),
        ("p, user:ann, *, /a/***, read, , deny, x", 17, "whole segment"),
        ("p, user:ann, *, /a, Read, , deny, x", 21, "expected an action"),
        ("p, user:ann, *, /a, read, , deny, X Y", 35, "expected an id"),
        ("p, user:ann, *, /a, read, , deny, ann-reads", 35, "already used in line 1"),
        ("g, user:ann, operator, aegis", 14, "expected a role"),
        ("g, user:ann, user:bob, aegis", 14, "expected a role"),
        ("g, user:ann, role:operator, *", 29, "expected a domain"),
        ("g2, user:ann, role:operator, aegis", 1, "expected 2 fields"),
        ('p, "user:ann, *, /a, read, , deny, x', 4, "closing quote"),
        ('p, "user:ann" x, *, /a, read, , deny, x', 15, "comma after the closing quote"),
        ('p, user:ann, *, /a, read, ctx.a == "x", deny, x', 27, "goes in quotes"),
        ("p, user:ann, *, /a\x00, read, , deny, x", 19, "U+0000 is invisible"),
        ("p, user:ann, *, /a\t, read, , deny, x", 19, "U+0009 is invisible"),
        ("p, user:ann, *, /a\u202e, read, , deny, x", 19, "U+202E is invisible"),
        ("p, user:ann, *, /a\u2028, read, , deny, x", 19, "U+2028 is invisible"),
        ("p, user:ann, *, /a\ud800, read, , deny, x", 19, "U+D800 is invisible"),
        ("p, user:ann, *, /cafe\u0301, read, , deny, x", 1, "normal form C"),
        ("\ufeffp, user:ann, *, /a, read, , deny, x", 1, "U+FEFF is invisible"),
        ("# a comment with \x07", 18, "U+0007 is invisible"),
    ],
)
def test_bad_line_is_named_by_line_and_column(line: str, column: int, words: str) -> None:
    """Every kind of fault is refused, at its place, with what was expected."""
    ((number, where, expected),) = faults(GOOD + line + "\n")
    assert (number, where) == (2, column)
    assert words in expected


def test_all_faults_are_named_at_once_in_file_order() -> None:
    """Nobody has to repair a file one error at a time."""
    text = "q\n" + GOOD + "p, x, *, a, Read, ctx., Deny, Y\ng2, user:ann, nobody\n"
    assert [(line, column) for line, column, _ in faults(text)] == [
        (1, 1),
        (3, 4),
        (3, 10),
        (3, 13),
        (3, 23),
        (3, 25),
        (3, 31),
        (4, 15),
    ]


def test_role_cycle_is_refused() -> None:
    """Roles that contain each other are named, each of them."""
    cycle = "g2, role:a, role:b\ng2, role:b, role:c\ng2, role:c, role:a\n"
    assert [(line, text) for line, _, text in faults(GOOD + cycle)] == [
        (2, "role:a would be its own role"),
        (3, "role:b would be its own role"),
        (4, "role:c would be its own role"),
    ]
    assert "role:a would be its own role" in faults(GOOD + "g, role:a, role:a, aegis\n")[0][2]
    mixed = "g, role:a, role:b, aegis\ng2, role:b, role:a\n"
    assert "role:a would be its own role" in faults(GOOD + mixed)[0][2]


def test_ten_roles_in_a_chain_are_refused_and_nine_are_not() -> None:
    """Casbin would cut the tenth silently."""
    chain = ["user:ann", *(f"role:r{index}" for index in range(10))]
    links = [f"g2, {a}, {b}\n" for a, b in pairwise(chain)]
    assert read_rules(GOOD + "".join(links[:9])).lines
    assert "more than 9 roles" in faults(GOOD + "".join(links))[0][2]


def test_same_binding_twice_is_refused() -> None:
    """A second copy is a mistake: removing one of them would not remove the role."""
    binding = "g, user:ann, role:a, aegis\n"
    assert "already used in line 2" in faults(GOOD + binding + binding)[0][2]
    assert read_rules(GOOD + binding + "g, user:ann, role:a, other\ng2, user:ann, role:a\n").lines


@pytest.mark.parametrize("text", ["", "\n \n# nothing\n", "g2, user:ann, role:a\n"])
def test_file_without_a_rule_is_refused(text: str) -> None:
    """An empty rule set locks everybody out; nobody means that."""
    assert "locks all out" in faults(text)[0][2]


def test_layout_does_not_matter() -> None:
    """Spaces around fields, CRLF, blank and comment lines are layout; quotes keep text together."""
    text = (
        '  # comment, with "quotes\r\n\r\n'
        '  p ,user:ann,*,  /a  , read,"ctx.a == ""x, y""" , allow,  ann-reads  \r\n'
    )
    assert read_rules(text).lines == (
        Line("p", ("user:ann", "*", "/a", "read", 'ctx.a == "x, y"', "allow", "ann-reads")),
    )


@given(st.text(alphabet="pg2, \"'\n#:/*abuserolx=.", max_size=120))
def test_any_text_is_read_or_refused_and_reads_back_the_same(text: str) -> None:
    """No input fails in another way, and what is accepted survives storing."""
    try:
        rules = read_rules(GOOD + text)
    except PolicyError as refusal:
        error = refusal
    else:
        assert read_rules(to_csv(rules.lines)).lines == rules.lines
        return
    assert all(bad.line >= 0 and bad.expected for bad in error.violations)
