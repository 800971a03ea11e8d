"""PyCasbin's known traps, one test each: we use it, and we do not have them."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

import pytest
from casbin.rbac.default_role_manager import RoleManager
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Engine, Line, PolicyError, RequestError, read_rules
from aegis_policy.models import DEFAULT_MODEL
from aegis_policy.readers import MAX_LINES
from aegis_policy.roles import Roles

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DENIED_BY_ROLE = """
p, user:ann, *, /**, *, , allow, ann-may-all
p, role:banned, *, /**, *, , deny, banned
g, user:ann, role:banned, aegis
"""
# An admin's own model, with roles and both effects.
OWN = """[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act, eft
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && r.act == p.act
"""


def decided(engine: Engine, subject: str = "user:ann", resource: str = "/a", **attributes: object):
    answer = engine.decide(
        subject=subject,
        domain="aegis",
        resource=resource,
        action="read",
        attributes=attributes,
        now=NOON,
    )
    return answer.allowed, answer.rule_id


def test_new_rules_never_disturb_who_is_asking_meanwhile() -> None:
    """Reload race: a deny that comes through a role holds while engines are built and swapped.

    Threads: nor do two that ask the same engine disturb each other.
    """
    current = Engine.from_csv(DENIED_BY_ROLE)
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                if decided(current) != (False, "banned"):
                    wrong.append("allowed")
            except Exception as error:  # whatever it is, the test must show it
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        current = Engine.from_csv(DENIED_BY_ROLE)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_new_rules_never_disturb_who_is_asking_an_own_model_meanwhile() -> None:
    """Reload race: nor where PyCasbin evaluates; every engine has an enforcer of its own."""
    rows = "p, ann, /a, read, allow\np, banned, /a, read, deny\ng, ann, banned\n"
    current = Engine.from_csv(rows, OWN)
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                if decided(current, "ann") != (False, "p#2"):
                    wrong.append("allowed")
            except Exception as error:  # whatever it is, the test must show it
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        current = Engine.from_csv(rows, OWN)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("text", ["True) or (True", "1 == 1) or (1 == 1", "r.sub == r.sub"])
def test_text_of_a_rule_never_becomes_program(text: str) -> None:
    """eval(): our own grammar parses conditions, so none can close a bracket of Casbin's."""
    with pytest.raises(PolicyError):
        Engine.from_csv(f'p, user:ann, *, /a, read, "{text}", allow, x\n')


def test_model_with_eval_is_refused() -> None:
    """eval(): not even a custom model may splice rules into its matcher."""
    model = DEFAULT_MODEL.replace("cond(p.cond, p.eft, r.ctx)", "eval(p.cond)")
    with pytest.raises(PolicyError, match=r"eval\(\)"):
        Engine.from_csv(DENIED_BY_ROLE, model)


@pytest.mark.parametrize("effect", ["Deny", "denied", "DENY", "deny # comment", "", "block"])
def test_misspelt_deny_is_refused_rather_than_ignored(effect: str) -> None:
    """Effects: Casbin takes an unknown effect for no rule at all, which lets the caller in."""
    with pytest.raises(PolicyError):
        Engine.from_csv(f"p, user:ann, *, /a, read, , {effect}, x\n")


@pytest.mark.parametrize("kind", ["P", "p2", "G", "policy", "g3"])
def test_line_of_unknown_kind_is_refused_rather_than_dropped(kind: str) -> None:
    """Line types: Casbin skips what it does not know, also when it was meant to deny."""
    with pytest.raises(PolicyError):
        Engine.from_csv(DENIED_BY_ROLE + f"{kind}, user:ann, *, /a, read, , deny, x\n")


def test_wildcard_deny_is_seen() -> None:
    """FastEnforcer: no index on exact keys hides a deny that is written with a pattern."""
    engine = Engine.from_csv(
        "p, user:ann, *, /a/b, read, , allow, exact\np, user:ann, *, /a/*, *, , deny, pattern\n"
    )
    assert decided(engine, resource="/a/b") == (False, "pattern")


def test_effect_that_allows_without_a_rule_is_refused() -> None:
    """Effects: a deny-only model lets everybody in when there are no rows."""
    line = "e = some(where (p.eft == allow)) && !some(where (p.eft == deny))"
    model = DEFAULT_MODEL.replace(line, "e = !some(where (p.eft == deny))")
    with pytest.raises(PolicyError, match="has to need an allow"):
        Engine.from_csv(DENIED_BY_ROLE, model)


def test_model_of_another_shape_does_not_read_our_rules_in_its_own_way() -> None:
    """A model whose rows mean something else cannot be used with our rule files."""
    for model in ("", "[matchers]\nm = r.sub == p.sub\n"):
        with pytest.raises(PolicyError, match="model"):
            Engine.from_csv(DENIED_BY_ROLE, model)
    with pytest.raises(PolicyError, match="expected 6 fields"):
        Engine.from_csv(DENIED_BY_ROLE, DEFAULT_MODEL.replace("eft, id", "eft"))


@pytest.mark.parametrize(
    "matcher",
    [
        "regexMatch(r.obj, p.obj)",
        "r.sub == p.sub && (10 ** 3999999) % 7 == 1",
        "r.obj == keyGet(r.obj, p.obj)",
        "__import__(p.obj)",
    ],
)
def test_matcher_that_could_take_minutes_is_refused(matcher: str) -> None:
    """ReDoS: no regular expressions and no arithmetic, not even in a model of one's own."""
    before, _, _ = DEFAULT_MODEL.rpartition("m = ")
    with pytest.raises(PolicyError, match=r"line \d+, column \d+: model"):
        Engine.from_csv(DENIED_BY_ROLE, f"{before}m = {matcher}\n")


def test_pattern_of_an_own_model_never_becomes_a_regular_expression() -> None:
    """ReDoS: keyMatch2 hands a rule's text to `re`, so signs of its language are refused."""
    model = (
        "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n"
        "[policy_effect]\ne = some(where (p.eft == allow))\n"
        "[matchers]\nm = r.sub == p.sub && keyMatch2(r.obj, p.obj) && r.act == p.act\n"
    )
    with pytest.raises(PolicyError, match="regular expressions"):
        Engine.from_csv("p, ann, /(a+)+$, read\n", model)
    assert not Engine.from_csv("p, ann, /a/:id, read\n", model).compiled


def test_condition_that_cannot_be_answered_never_helps_the_caller() -> None:
    """Errors: an allow does not match, a deny does, and the decision itself never fails."""
    engine = Engine.from_csv(
        "p, user:ann, *, /a, read, ctx.level > 3, allow, high\n"
        "p, user:bob, *, /a, read, , allow, bob\n"
        "p, user:bob, *, /a, read, ctx.level > 3, deny, not-too-high\n"
    )
    assert decided(engine, level=4) == (True, "high")
    assert decided(engine) == (False, "")
    assert decided(engine, level="4") == (False, "")
    assert decided(engine, "user:bob", level=3) == (True, "bob")
    assert decided(engine, "user:bob") == (False, "not-too-high")
    assert decided(engine, "user:bob", level=[3]) == (False, "not-too-high")


def test_line_with_a_missing_field_is_refused_before_it_breaks_every_decision() -> None:
    """Field count: Casbin loads such a line and then fails whenever a scan reaches it."""
    with pytest.raises(PolicyError, match="expected 7 fields"):
        Engine.from_csv(DENIED_BY_ROLE + "p, user:ann, *, /a, read, allow\n")


@pytest.mark.parametrize(
    ("pattern", "resource", "fits"),
    [
        ("/org/*/read-only", "/org/1/anything", False),
        ("/org/*/read-only", "/org/1/read-only", True),
        ("/org/*", "/org/1/2", False),
        ("/org/*", "/org", False),
        ("/org/**", "/org", True),
        ("/org/**", "/org/1/2/3", True),
        ("/org/**", "/organ", False),
        ("/org/*/**", "/org", False),
        ("/org/*/**", "/org/1", True),
        ("/o.g", "/oxg", False),
        ("/org/*", "/org/.hidden", True),
        ("/**", "/anything/at/all", True),
        ("/Org", "/org", False),
    ],
)
def test_pattern_means_whole_segments(pattern: str, resource: str, fits: bool) -> None:
    """Matchers: keyMatch ends at its first star, a regex dot is anything; neither is so here."""
    engine = Engine.from_csv(f"p, user:ann, *, {pattern}, read, , allow, x\n")
    assert decided(engine, resource=resource)[0] is fits


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "a",
        "/",
        "/a/",
        "//a",
        "/a//b",
        "/a/.",
        "/a/../b",
        "/a\n",
        "/a\x00",
        "/cafe\u0301",
        "/a\ud800",
        "/" + "x" * 512,
    ],
)
def test_resource_that_could_be_read_in_two_ways_is_refused(resource: str) -> None:
    """Canonical paths: no second spelling of a path gets past a rule about the first."""
    engine = Engine.from_csv("p, user:ann, *, /**, read, , allow, x\n")
    with pytest.raises(RequestError) as caught:
        decided(engine, resource=resource)
    assert caught.value.field == "resource"


def test_nobody_can_ask_as_a_role() -> None:
    """Names: to Casbin a user called role:admin would have that role."""
    engine = Engine.from_csv("p, role:admin, *, /**, *, , allow, all\n")
    with pytest.raises(RequestError, match="a role cannot ask"):
        decided(engine, "role:admin")


@pytest.mark.timeout(60)
def test_many_roles_and_rules_build_in_linear_time() -> None:
    """Role manager, add_policy: both quadratic in Casbin; at the limit they would take minutes."""
    half = 25_000
    engine = Engine.from_csv(
        "".join(f"g, user:u{n}, role:r{n}, aegis\n" for n in range(half))
        + "".join(f"p, role:r{n}, *, /a/{n}, read, , allow, rule-{n}\n" for n in range(half))
    )
    assert decided(engine, f"user:u{half - 1}", f"/a/{half - 1}") == (True, f"rule-{half - 1}")
    assert decided(engine, "user:u1", "/a/2") == (False, "")


def test_more_rules_than_a_scan_can_bear_are_refused() -> None:
    """Scan: the cost of a decision grows with every rule, so their number has a bound."""
    line = "g2, user:u{}, role:a\n"
    text = "p, role:a, *, /a, read, , allow, a\n" + "".join(map(line.format, range(MAX_LINES)))
    with pytest.raises(PolicyError, match=f"at most {MAX_LINES}"):
        read_rules(text)


def test_unknown_subjects_leave_nothing_behind() -> None:
    """Memory: Casbin keeps every name ever asked about; an attacker could ask about many."""
    engine = Engine.from_csv(DENIED_BY_ROLE)
    for index in range(200):
        assert decided(engine, f"user:stranger-{index}") == (False, "")
        assert engine.roles_of(f"user:stranger-{index}", f"domain-{index}") == frozenset()
    assert not [key for key in engine._closed if "stranger" in key[0]]


def test_longest_permitted_role_chain_reaches_its_end() -> None:
    """Chains: nine links count in full, and a tenth is refused when the rules are read."""
    names = ["user:ann", *(f"role:r{n}" for n in range(1, 11))]
    links = [f"g, {names[n]}, {names[n + 1]}, aegis\n" for n in range(10)]
    engine = Engine.from_csv("p, role:r9, *, /a, read, , allow, end\n" + "".join(links[:9]))
    assert decided(engine) == (True, "end")
    with pytest.raises(PolicyError, match="more than 9 roles"):
        Engine.from_csv("p, role:r10, *, /a, read, , allow, end\n" + "".join(links))


names = st.sampled_from([f"role:{letter}" for letter in "abcdef"])


@settings(max_examples=60)
@given(st.sets(st.tuples(names, names).filter(lambda link: link[0] < link[1]), max_size=12))
def test_roles_agree_with_casbins_own_manager(links: set[tuple[str, str]]) -> None:
    """Our frozen role links answer every question as Casbin's own manager does."""
    ours = Roles({}).with_links((), [("", member, role) for member, role in links])
    casbins = RoleManager(10)
    for member, role in links:
        casbins.add_link(member, role)
    for member in "abcdef":
        for role in "abcdef":
            pair = (f"role:{member}", f"role:{role}")
            has = pair[0] == pair[1] or pair[1] in ours.of(pair[0], "aegis")
            assert has == casbins.has_link(*pair)


def test_denied_request_is_not_written_to_casbins_log(caplog: pytest.LogCaptureFixture) -> None:
    """Logging: Casbin logs whole requests on a denial, and attributes may be personal data."""
    with caplog.at_level(logging.DEBUG):
        decided(Engine.from_csv(DENIED_BY_ROLE), secret="patient 4711")
    assert caplog.records == []


def test_denied_request_of_an_own_model_is_not_logged_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Logging: PyCasbin, which writes "Request: ..." itself, is kept quiet."""
    with caplog.at_level(logging.DEBUG):
        engine = Engine.from_csv("p, ann, /a, read, deny\n", OWN)
        assert decided(engine, "ann") == (False, "p#1")
        assert decided(engine, "patient-4711") == (False, "")
    assert caplog.records == []


def test_pattern_deny_of_an_own_model_is_seen() -> None:
    """FastEnforcer: own models are scanned row by row, in their order."""
    rows = "p, ann, /a/b, read, allow\np, ann, /a/:x, read, deny\n"
    assert decided(Engine.from_csv(rows, OWN), "ann", "/a/b") == (False, "p#2")


@pytest.mark.parametrize("effect", ["Deny", "denied", "deny # comment", "", "block"])
def test_misspelt_deny_of_an_own_model_is_refused(effect: str) -> None:
    """Effects: what a model calls eft is checked as in ours."""
    with pytest.raises(PolicyError, match="exactly"):
        Engine.from_csv(f"p, ann, /a, read, allow\np, ann, /a, read, {effect}\n", OWN)


def test_case_of_a_name_is_significant() -> None:
    """Names: Ann is not ann, for PyCasbin and for us; a deny about one is none about the other."""
    assert decided(Engine.from_csv("p, Ann, /a, read, allow\n", OWN), "ann") == (False, "")
    engine = Engine.from_csv("p, user:Ann, *, /a, read, , allow, x\n")
    assert decided(engine, "user:ann") == (False, "")
    assert decided(engine, "user:Ann") == (True, "x")


@pytest.mark.parametrize("mark", ["]", "[", "(", ")", "](", "'"])
def test_unbalanced_bracket_is_a_letter(mark: str) -> None:
    """Brackets: Casbin counts them, and a single one fails its whole load."""
    line = f"p, user:ann, *, /a{mark}, read, , allow, x\n"
    assert decided(Engine.from_csv(line), resource=f"/a{mark}") == (True, "x")
    own = Engine.from_csv(f"p, ann{mark}, /a, read, allow\n", OWN)
    assert decided(own, f"ann{mark}") == (True, "p#1")


def test_priorities_of_an_own_model_are_numbers() -> None:
    """Priorities: one that is negative or a word fails Casbin's load, or sorts as text."""
    model = OWN.replace("p = sub", "p = priority, sub").replace(
        "some(where (p.eft == allow)) && !some(where (p.eft == deny))", "priority(p.eft) || deny"
    )
    rows = "p, 10, ann, /a, read, deny\np, {}, ann, /a, read, allow\n"
    assert decided(Engine.from_csv(rows.format(9), model), "ann") == (True, "p#2")
    for priority in ("-1", "first", "1e3", "\u0661"):
        with pytest.raises(PolicyError, match="a number from 0"):
            Engine.from_csv(rows.format(priority), model)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("function", "pattern", "resource"),
    [
        ("keyMatch2", "/*/:a/:b/z", "/a" * 255),
        ("keyMatch2", "/*/x", "/" * 511),
        ("keyMatch3", "/{a}x/{b}x/*/y", "/" + "x" * 250 + "/" + "x" * 255),
        ("globMatch", "/**/a*b", "/" + "a" * 510),
        ("globMatch", "/*a/*a/**/*b", "/aaaa" * 100),
    ],
)
def test_worst_resource_for_a_permitted_pattern_is_answered(
    function: str, pattern: str, resource: str
) -> None:
    """ReDoS: /*/*/*/*/* and {a}{b}{c} take minutes for some path; what is left cannot multiply."""
    rows = f"p, ann, {pattern}, read, allow\n" * 20
    engine = Engine.from_csv(rows, OWN.replace("keyMatch2", function))
    for _ in range(20):
        assert not decided(engine, "ann", resource)[0]


@pytest.mark.parametrize("pattern", ["/*/*/*/*/*/x", "/a*a*a*a*a*b", "/**", "*a", "/:id*"])
def test_pattern_with_more_stars_than_one_is_refused(pattern: str) -> None:
    """ReDoS: they multiply, or PyCasbin's own translation of them is no regular expression."""
    with pytest.raises(PolicyError):
        Engine.from_csv(f"p, ann, {pattern}, read, allow\n", OWN)


@pytest.mark.timeout(60)
def test_roles_of_an_own_model_with_domains_build_in_linear_time() -> None:
    """Role manager: Casbin's compares each new name of a domain with all there are."""
    model = OWN.replace("g = _, _", "g = _, _, _").replace("r = sub", "r = sub, dom")
    model = model.replace("g(r.sub, p.sub)", "g(r.sub, p.sub, r.dom)")
    links = "".join(f"g, u{n}, r{n}, aegis\n" for n in range(9_000))
    engine = Engine.from_csv(links + "p, r8999, /a, read, allow\n", model)
    assert decided(engine, "u8999") == (True, "p#1")
    assert decided(engine, "u1") == (False, "")


def test_unknown_subjects_leave_nothing_behind_in_an_own_model() -> None:
    """Memory: PyCasbin gets role managers that answer from links alone."""
    engine = Engine.from_csv("p, admin, /a, read, allow\ng, ann, admin\n", OWN)
    interpreter = engine._interpreter
    assert interpreter is not None
    for index in range(200):
        assert decided(engine, f"stranger-{index}") == (False, "")
    assert interpreter._managers["g"]._roles._links == {"": {"ann": ("admin",)}}
    assert interpreter._enforcer.get_role_manager() is interpreter._managers["g"]


def test_change_shares_what_stays() -> None:
    """add_policy: one more rule costs the way to it, not a copy of all the others."""
    lines = "".join(f"p, user:ann, north, /a/{n}, read, , allow, n{n}\n" for n in range(50))
    engine = Engine.from_csv(lines + "p, user:ann, south, /a, read, , allow, s\n")
    added = Line("p", ("user:ann", "south", "/b", "read", "", "allow", "t"))
    changed = engine.updated((), [(1, added)])
    assert changed.index._roots["north"] is engine.index._roots["north"]
    assert changed.index._roots["south"] is not engine.index._roots["south"]


@pytest.mark.parametrize("model", [None, OWN], ids=["compiled", "own"])
def test_change_that_is_refused_leaves_everything_as_it_was(model: str | None) -> None:
    """Order of effects: nothing is told, removed or written before the whole change is good."""
    rows = "p, ann, /a, read, allow\n" if model else "p, user:ann, *, /a, read, , allow, x\n"
    engine = Engine.from_csv(rows, model)
    ((place, line),) = engine.lines()
    for removed, added in ([place], []), ([], [(place + 1, Line("p", ("ann", "/a")))]):
        with pytest.raises(PolicyError):
            engine.updated(removed, added)
    assert list(engine.lines()) == [(place, line)]
    assert decided(engine, line.fields[0])[0]


def test_enforcer_of_an_own_model_has_nowhere_to_write() -> None:
    """Persistence: FileAdapter empties its file before it writes; ours cannot, nobody tells it."""
    interpreter = Engine.from_csv("p, ann, /a, read, allow\n", OWN)._interpreter
    assert interpreter is not None
    enforcer = interpreter._enforcer
    assert not enforcer.auto_save
    assert enforcer.watcher is None
    enforcer.save_policy()  # the base class of adapters does nothing
    assert decided(Engine.from_csv("p, ann, /a, read, allow\n", OWN), "ann") == (True, "p#1")


def test_domain_is_never_loaded_in_part() -> None:
    """Filtered policies: a deny that was not loaded would allow, so there is no filter."""
    engine = Engine.from_csv(DENIED_BY_ROLE)
    assert engine.size == len(read_rules(DENIED_BY_ROLE).lines)
    own = Engine.from_csv("p, ann, /a, read, allow\n", OWN)._interpreter
    assert own is not None
    assert not own._enforcer.is_filtered()


def test_nobody_can_ask_as_a_role_in_an_own_model() -> None:
    """Names: what is called role: is one there, too."""
    with pytest.raises(RequestError, match="a role cannot ask"):
        decided(Engine.from_csv("p, role:admin, /a, read, allow\n", OWN), "role:admin")


def test_trailing_newline_is_no_resource_of_an_own_model() -> None:
    """Matchers: keyMatch2 would take it, and a deny about the path would not be met."""
    with pytest.raises(RequestError, match="printable"):
        decided(Engine.from_csv("p, ann, /a, read, allow\n", OWN), "ann", "/a\n")
