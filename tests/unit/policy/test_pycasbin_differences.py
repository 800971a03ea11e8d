"""Where PyCasbin answers otherwise than Casbin in Go: docs/casbin.md, line by line.

"As Casbin" means as PyCasbin. Each test states what the installed PyCasbin does, so that an
upgrade which changes it is seen here before an admin's own model decides differently.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import casbin
import pytest
from casbin.model import FunctionMap, Model
from casbin.persist import load_policy_line
from casbin.rbac.default_role_manager import DomainManager, RoleManager
from casbin.util import builtin_operators as built_in

ALLOW = "some(where (p.eft == allow))"
BOTH = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
ACL = "r.sub == p.sub && r.obj == p.obj && r.act == p.act"


def enforcer(
    *rows: str, m: str = ACL, e: str = ALLOW, p: str = "sub, obj, act, eft", g: str = ""
) -> casbin.Enforcer:
    """An enforcer as PyCasbin makes it, with rows as its file adapter reads them."""
    model = Model()
    model.load_model_from_text(
        f"[request_definition]\nr = sub, obj, act\n[policy_definition]\np = {p}\n"
        + (f"[role_definition]\ng = {g}\n" if g else "")
        + f"[policy_effect]\ne = {e}\n[matchers]\nm = {m}\n"
    )
    for row in rows:
        load_policy_line(row, model)
    model.sort_policies_by_priority()
    made = casbin.Enforcer(model)
    made.build_role_links()
    return made


@contextmanager
def local_zone(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    monkeypatch.setenv("TZ", name)
    time.tzset()
    try:
        yield
    finally:
        monkeypatch.undo()
        time.tzset()


def test_comment_behind_a_definition_becomes_part_of_its_last_field() -> None:
    """1: only a whole line is a comment; a matcher alone is cut at "#", and at no ";"."""
    made = enforcer("p, ann, /a, read, deny", p="sub, obj, act, eft # a comment")
    assert made.get_model()["p"]["p"].tokens[-1] == "p_eft # a comment"
    assert made.enforce("ann", "/a", "read")  # the field is not called eft any more
    assert enforcer("p, ann, /a, read, allow", m=f"{ACL} # why").enforce("ann", "/a", "read")
    with pytest.raises(Exception, match=r"invalid syntax|attribute"):
        enforcer("p, ann, /a, read, allow", m="r.sub == ; p.sub").enforce("ann", "/a", "read")


def test_operators_without_spaces_run_into_names() -> None:
    """2: && is replaced by the letters "and", whatever stands next to it."""
    with pytest.raises(Exception, match="p_subandr_obj"):
        enforcer("p, ann, /a, read, allow", m="r.sub == p.sub&&r.obj == p.obj").enforce(
            "ann", "/a", "read"
        )


def test_texts_in_a_matcher_are_rewritten() -> None:
    """3: what looks like an operator or a field between quotes is replaced there, too."""
    made = enforcer("p, ann, /a, read, allow", m="r.obj == 'a&&b' || r.act == 'r.sub'")
    assert not made.enforce("ann", "a&&b", "read")
    assert made.enforce("ann", "aandb", "read")
    assert made.enforce("ann", "/a", "r_sub")


def test_only_one_numbered_kind_of_fields_is_recognised() -> None:
    """4: beside p2.sub, p.sub stays as it is and is no name."""
    made = enforcer("p, ann, /a, read, allow", m="p2.sub == r.sub || p.sub == r.sub")
    assert made.get_model()["m"]["m"].value == "p2_sub == r_sub || p.sub == r_sub"


def test_negation_reaches_over_a_comparison() -> None:
    """5: !a == b means !(a == b), as Python's not does."""
    made = enforcer("p, ann, /a, read, allow", m="!r.sub == p.sub")
    assert made.enforce("bob", "/a", "read")
    assert not made.enforce("ann", "/a", "read")


def test_in_searches_texts_and_one_bracketed_text_is_no_list() -> None:
    """6: "in" is Python's: ('admin') is a text, and "min" is in it."""
    made = enforcer("p, ann, /a, read, allow", m="r.sub in ('admin')")
    assert made.enforce("min", "/a", "read")
    assert not enforcer("p, ann, /a, read, allow", m="r.sub in ('admin',)").enforce("min", "", "")
    assert enforcer("p, ann, /a, read, allow", m="r.sub in ['a', 'b']").enforce("b", "", "")


def test_whole_number_is_no_result() -> None:
    """7: a matcher that comes to 1 raises, though 1.0 is a match."""
    assert enforcer("p, ann, /a, read, allow", m="1.0").enforce("ann", "/a", "read")
    with pytest.raises(RuntimeError, match="should be bool, int or float"):
        enforcer("p, ann, /a, read, allow", m="1").enforce("ann", "/a", "read")


def test_text_that_looks_like_a_time_stays_a_text() -> None:
    """8: govaluate makes a number of '2026-01-01'; Python compares the text."""
    made = enforcer("p, ann, /a, read, allow", m="r.obj == '2026-01-01'")
    assert made.enforce("ann", "2026-01-01", "read")


def test_regex_matches_from_the_beginning() -> None:
    """9: regexMatch is re.match: not found further on, not needed to the end."""
    assert not built_in.regex_match("/x/topic", "topic")
    assert built_in.regex_match("topic/x", "topic")


def test_star_alone_is_everything_to_key_match2() -> None:
    """10: keyMatch2 has a case for "*" of its own."""
    assert built_in.key_match2("/any/thing", "*")


def test_variables_of_key_match3_end_at_their_bracket() -> None:
    """11: {a}-{b} are two variables with a dash between."""
    assert built_in.key_match3("/x-y", "/{a}-{b}")
    assert not built_in.key_match3("/xy", "/{a}-{b}")


def test_pattern_takes_a_newline_at_the_end() -> None:
    """12: Python's "$" also matches before a last newline."""
    assert built_in.key_match2("/a\n", "/a")
    assert built_in.key_match3("/a\n", "/a")


def test_glob_leaves_out_hidden_segments() -> None:
    """13: globMatch is wcmatch: "*" takes no leading dot, and "*/" loses its star."""
    assert built_in.glob_match("/a/b", "/a/*")
    assert not built_in.glob_match("/a/.b", "/a/*")
    assert built_in.glob_match("/a", "*/a")
    assert not built_in.glob_match("x/a", "*/a")
    assert built_in.glob_match("/a", "/a,b/**")  # its braces around a pattern meet its comma


def test_time_match_is_for_matchers_and_reads_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """14: the same text is another instant in another zone of the server."""
    assert "timeMatch" in FunctionMap.load_function_map().get_functions()
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - 60))
    with local_zone(monkeypatch, "UTC"):
        assert built_in.time_match_func(now, "_")
    with local_zone(monkeypatch, "UTC+5"):  # POSIX: five hours behind
        assert not built_in.time_match_func(now, "_")


def test_key_get_is_no_function_of_matchers() -> None:
    """15: keyGet, keyGet2 and keyGet3 are there, but no matcher can call them."""
    functions = FunctionMap.load_function_map().get_functions()
    assert not {"keyGet", "keyGet2", "keyGet3"} & set(functions)


def test_functions_ignore_arguments_that_are_too_many() -> None:
    """16: nothing counts them."""
    assert built_in.key_match_func("/a", "/a", "/b")


def test_address_pattern_that_is_none_does_not_match() -> None:
    """17: ipMatch is false for such a pattern, and raises for such an address."""
    assert not built_in.ip_match("10.0.0.1", "nonsense")
    assert built_in.ip_match("10.0.0.1", "10.0.0.9/8")
    assert not built_in.ip_match("::ffff:10.0.0.1", "10.0.0.0/8")
    with pytest.raises(ValueError, match="nonsense"):
        built_in.ip_match("nonsense", "10.0.0.0/8")


def test_tenth_link_of_a_chain_is_not_followed() -> None:
    """18: ten levels include the first name, so nine links are the most."""
    manager = RoleManager(10)
    for number in range(10):
        manager.add_link(f"r{number}", f"r{number + 1}")
    assert manager.has_link("r0", "r9")
    assert not manager.has_link("r0", "r10")


def test_names_that_were_asked_about_are_kept() -> None:
    """19: the role manager remembers each of them."""
    manager = RoleManager(10)
    manager.has_link("stranger", "role")
    assert set(manager.all_roles) == {"stranger", "role"}


def test_binding_has_one_domain() -> None:
    """20: a second domain field raises; only the first counts elsewhere."""
    with pytest.raises(RuntimeError, match="domain should be 1 parameter"):
        DomainManager(10).add_link("ann", "admin", "one", "two")


def test_last_rule_that_matched_is_named() -> None:
    """21: the last allow of several, and a deny that did not decide."""
    rows = ("p, ann, /a, read, allow", "p, ann, *, read, allow")
    made = enforcer(*rows, m="r.sub == p.sub && keyMatch(r.obj, p.obj)", e=BOTH)
    assert made.enforce_ex("ann", "/a", "read") == (True, ["ann", "*", "read", "allow"])
    made = enforcer("p, ann, /a, read, deny")
    assert made.enforce_ex("ann", "/a", "read") == (False, ["ann", "/a", "read", "deny"])


def test_line_with_another_number_of_fields_is_loaded_and_then_raises() -> None:
    """22: not the load fails but each decision that comes by."""
    made = enforcer("p, ann, /a, read")
    with pytest.raises(RuntimeError, match="invalid policy size"):
        made.enforce("ann", "/a", "read")


def test_same_line_twice_is_two_rules() -> None:
    """23: loading keeps duplicates."""
    row = "p, ann, /a, read, allow"
    assert len(enforcer(row, row).get_policy()) == 2


def test_quotes_are_letters_and_brackets_hold_commas() -> None:
    """24: lines are no CSV: a quote stays, and a comma inside brackets does not divide."""
    made = enforcer('p, "ann", /a(b, c), read, allow')
    assert made.get_policy() == [['"ann"', "/a(b, c)", "read", "allow"]]
    with pytest.raises(IndexError):
        enforcer("p, ann, /a], read, allow")


def test_priorities_are_numbers_only_where_all_characters_are_digits() -> None:
    """25: -1 is a text; with a number beside it nothing loads, and -10 comes before -9."""
    fields, rows = "priority, sub, obj, act, eft", "p, {}, ann, /a, read, {}"
    made = enforcer(rows.format("-9", "deny"), rows.format("-10", "allow"), p=fields)
    assert [row[0] for row in made.get_policy()] == ["-10", "-9"]
    made = enforcer(rows.format("10", "deny"), rows.format("9", "allow"), p=fields)
    assert [row[0] for row in made.get_policy()] == ["9", "10"]
    with pytest.raises(TypeError):
        enforcer(rows.format("-1", "deny"), rows.format("1", "allow"), p=fields)


def test_matcher_without_rules_still_walks_them() -> None:
    """26: the effect of some row decides about a matcher that mentions none of their fields."""
    made = enforcer("p, x, x, x, deny", m="r.sub == 'root'", e=BOTH)
    assert not made.enforce("root", "/a", "read")
    assert enforcer(m="r.sub == 'root'", e=BOTH).enforce("root", "/a", "read")


def test_documentation_numbers_the_differences_as_these_tests_do() -> None:
    """docs/casbin.md: a line for each test, a test for each line."""
    text = (Path(__file__).parents[3] / "docs/casbin.md").read_text()
    told = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    stated = re.findall(r'"""(\d+): ', Path(__file__).read_text())
    assert told == [int(number) for number in stated] == [*range(1, len(told) + 1)]
