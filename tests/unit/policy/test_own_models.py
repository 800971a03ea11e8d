"""Models that admins bring: what runs on PyCasbin, what is refused, and that the answers agree."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import casbin
import pytest
from casbin.model import Model as CasbinModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aegis_policy import Engine, PolicyError, RequestError, matches, read_model, read_rules
from aegis_policy.matchers import MAX_BYTES, MAX_DEPTH

ALLOW = "some(where (p.eft == allow))"
BOTH = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
FIRST = "priority(p.eft) || deny"
ACL = "r.sub == p.sub && r.obj == p.obj && r.act == p.act"
DOCUMENTATION = Path(__file__).parents[3] / "docs/casbin.md"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def conf(
    m: str = ACL, p: str = "sub, obj, act", r: str = "sub, obj, act", e: str = ALLOW, **roles: str
) -> str:
    """A model of the given definitions. The matcher stands in the last line."""
    return (
        f"[request_definition]\nr = {r}\n[policy_definition]\np = {p}\n"
        + ("[role_definition]\n" if roles else "")
        + "".join(f"{kind} = {fields}\n" for kind, fields in roles.items())
        + f"[policy_effect]\ne = {e}\n[matchers]\nm = {m}\n"
    )


def ask(
    engine: Engine,
    subject: str,
    resource: str = "data1",
    action: str = "read",
    domain: str = "one",
    roles: Sequence[str] = (),
    **attributes: object,
) -> tuple[bool, str]:
    answer = engine.decide(
        subject=subject,
        domain=domain,
        resource=resource,
        action=action,
        attributes=attributes,
        roles=roles,
        now=NOON,
    )
    return answer.allowed, answer.rule_id


def faults_of(model: str) -> list[tuple[int, int, str]]:
    with pytest.raises(PolicyError) as caught:
        read_model(model)
    return [(bad.line, bad.column, bad.expected) for bad in caught.value.violations]


# --- what runs ---


def test_access_list_names_its_rules_by_their_number() -> None:
    """Rows without eft allow, and without ids are called p#1, p#2 and so on."""
    engine = Engine.from_csv("p, alice, data1, read\np, bob, data2, write\n", conf())
    assert not engine.compiled
    assert ask(engine, "alice") == (True, "p#1")
    assert ask(engine, "bob", "data2", "write") == (True, "p#2")
    assert ask(engine, "bob") == (False, "")


def test_same_row_twice_is_called_by_the_first() -> None:
    """Casbin names a rule by its fields, so two equal ones are one name."""
    engine = Engine.from_csv("p, bob, data1, read\n" + "p, alice, data1, read\n" * 2, conf())
    assert ask(engine, "alice") == (True, "p#2")


def test_roles_without_domains() -> None:
    """A role reaches through others to the rule; bindings make their members known."""
    model = conf("g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act", g="_, _")
    engine = Engine.from_csv("p, admin, data1, read\ng, alice, lead\ng, lead, admin\n", model)
    assert ask(engine, "alice") == (True, "p#1")
    assert ask(engine, "carol") == (False, "")
    assert engine.roles_of("alice", "one") == {"lead", "admin"}
    assert engine.knows("alice")


def test_roles_within_domains() -> None:
    """A role in one domain is none in another."""
    matcher = "g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act"
    model = conf(matcher, "sub, dom, obj, act", "sub, dom, obj, act", g="_, _, _")
    engine = Engine.from_csv("p, admin, one, data1, read\ng, alice, admin, one\n", model)
    assert ask(engine, "alice") == (True, "p#1")
    assert ask(engine, "alice", domain="two") == (False, "")
    assert engine.roles_of("alice", "one") == {"admin"}
    assert engine.roles_of("alice", "two") == frozenset()


def test_groups_of_resources() -> None:
    """g2 binds resources to groups as g binds people to roles."""
    matcher = "g(r.sub, p.sub) && g2(r.obj, p.obj) && r.act == p.act"
    model = conf(matcher, g="_, _", g2="_, _")
    engine = Engine.from_csv("p, alice, group, read\ng2, data1, group\n", model)
    assert ask(engine, "alice") == (True, "p#1")
    assert ask(engine, "alice", "data2") == (False, "")


def test_paths_with_variables() -> None:
    """keyMatch2, as PyCasbin matches."""
    engine = Engine.from_csv(
        "p, alice, /data/:id, GET\np, bob, /data/*, GET\n",
        conf("r.sub == p.sub && keyMatch2(r.obj, p.obj) && r.act == p.act"),
    )
    assert ask(engine, "alice", "/data/7", "GET") == (True, "p#1")
    assert ask(engine, "alice", "/data/7/more", "GET") == (False, "")
    assert ask(engine, "bob", "/data/7/more", "GET") == (True, "p#2")


def test_allow_override() -> None:
    """A deny says nothing where one allow is enough; it is named when nothing else matched."""
    engine = Engine.from_csv(
        "p, alice, data1, read, deny\np, alice, data1, read, allow\np, bob, data1, read, deny\n",
        conf(p="sub, obj, act, eft"),
    )
    assert ask(engine, "alice") == (True, "p#2")
    assert ask(engine, "bob") == (False, "p#3")


def test_first_match_and_explicit_priorities() -> None:
    """The first rule decides; a field called priority sorts them, and keeps the numbers of rows."""
    rows = "p, alice, data1, read, deny\np, alice, data1, read, allow\n"
    assert ask(Engine.from_csv(rows, conf(p="sub, obj, act, eft", e=FIRST)), "alice") == (
        False,
        "p#1",
    )
    rows = "p, 10, alice, data1, read, deny\np, 9, alice, data1, read, allow\n"
    engine = Engine.from_csv(rows, conf(p="priority, sub, obj, act, eft", e=FIRST))
    assert ask(engine, "alice") == (True, "p#2")
    assert engine.knows("alice")
    assert not engine.knows("10")


def test_attributes_are_read_by_conditions() -> None:
    """cond() brings conditions to own models: what cannot be answered never helps the caller."""
    model = conf(
        ACL + " && cond(p.cond, p.eft, r.ctx)",
        "sub, obj, act, cond, eft, id",
        "sub, obj, act, ctx",
        BOTH,
    )
    engine = Engine.from_csv(
        "p, alice, data1, read, ctx.level > 3, allow, high\n"
        "p, bob, data1, read, , allow, bob\np, bob, data1, read, ctx.risk > 3, deny, risky\n",
        model,
    )
    assert ask(engine, "alice", level=4) == (True, "high")
    assert ask(engine, "alice", level="4") == (False, "")
    assert ask(engine, "bob", risk=1) == (True, "bob")
    assert ask(engine, "bob") == (False, "risky")
    assert engine.relevant({"level": 1, "other": 2}) == {"level": 1}


def test_answer_of_an_own_model_says_until_when_it_holds() -> None:
    """Windows in conditions end answers, with and without a column of effects."""
    matcher = ACL + " && cond(p.cond, 'allow', r.ctx)"
    engine = Engine.from_csv(
        'p, alice, data1, read, "between(""2026-03-02T00:00:00Z"", ""2026-03-02T13:00:00Z"")"\n',
        conf(matcher, "sub, obj, act, cond", "sub, obj, act, ctx"),
    )
    answer = engine.decide(subject="alice", domain="one", resource="data1", action="read", now=NOON)
    assert answer.allowed
    assert answer.valid_until == datetime(2026, 3, 2, 13, tzinfo=UTC)


def test_roles_from_a_directory_count_and_leave_the_name_as_it_is() -> None:
    """Who asks keeps its name: a rule about the name, a deny above all, still meets it."""
    model = conf(
        "(r.sub == p.sub || g(r.sub, p.sub)) && r.obj == p.obj && r.act == p.act",
        "sub, obj, act, eft",
        e=BOTH,
        g="_, _",
    )
    engine = Engine.from_csv(
        "p, admin, data1, read, allow\np, mallory, data1, read, deny\ng, role:lead, admin\n", model
    )
    assert ask(engine, "alice", roles=["role:lead"]) == (True, "p#1")
    assert ask(engine, "mallory", roles=["role:lead"]) == (False, "p#2")
    assert engine.roles_of("alice", "one", ["role:lead"]) == {"role:lead", "admin"}
    plain = Engine.from_csv("p, alice, data1, read\n", conf())
    assert ask(plain, "alice", roles=["role:lead"]) == (True, "p#1")


@pytest.mark.parametrize("comment", ["# why", "#", ""])
def test_layout_and_comments_of_a_model_do_not_matter(comment: str) -> None:
    """What PyCasbin would take into a field or run into a name is read as it is meant."""
    model = (
        f"; a model\n  [request_definition] {comment}\r\nr = sub,obj , act {comment}\r\n"
        f"[policy_definition]\np = sub, obj, act {comment}\n[policy_effect]\n"
        f"e = some( where(p_eft==allow) ) {comment}\n[matchers]\n"
        f"m = r.sub==p.sub&&(r.obj == p.obj)and not r.act!=p.act {comment}\n"
    )
    engine = Engine.from_csv("p, alice, data1, read\n", model)
    assert ask(engine, "alice") == (True, "p#1")
    assert ask(engine, "alice", action="write") == (False, "")


def test_what_was_understood_reads_back_as_the_same_model() -> None:
    """PyCasbin gets exactly what was checked."""
    first = read_model(conf("! (r.sub in ('a', \"b\",) or r.obj==p.obj)||keyMatch( r.act,'x*' )"))
    again = read_model(first.to_conf())
    assert first.shape == again.shape
    assert first.matcher.text == (
        '! ( r.sub in ["a", "b"] || r.obj == p.obj ) || keyMatch(r.act, "x*")'
    )


def test_examples_of_the_documentation_decide() -> None:
    """docs/casbin.md: the rules of our model, then a model with its rules."""
    ours, model, rows = re.findall(r"```(?:ini)?\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    engine = Engine.from_csv(ours)
    start = {"domain": "aegis", "resource": "/training/runs/1", "action": "start"}
    assert ask(engine, "user:olga", **start, review="on") == (True, "operators-start-reviewed")
    assert ask(engine, "user:mallory", **start, review="on") == (False, "banned")
    own = Engine.from_csv(rows, model)
    assert ask(own, "alice", "/data/1", "GET") == (True, "p#1")
    assert ask(own, "mallory", "/data/1", "GET") == (False, "p#2")


# --- equivalence ---

NAMES = ["ann", "bob", "a", "b", "c"]
PATHS = ["/x", "/x/1", "/x/1/y", "/z"]
PATTERNS = ["/x", "/x/*", "/x/:id", "/x/:id/y", "*"]
TESTS = [
    "r.sub == p.sub",
    "g(r.sub, p.sub)",
    "keyMatch2(r.obj, p.obj)",
    "keyMatch(r.obj, p.obj)",
    "r.obj == p.obj",
    "r.act == p.act",
    'r.act in ["read", "write"]',
    'p.act == "*"',
    '!r.sub == "ann"',
    "r.act >= p.act",
]


@st.composite
def matchers(draw: st.DrawFn) -> str:
    """Draws tests that are joined by signs and brackets, with spaces as PyCasbin needs them."""
    parts = [draw(st.sampled_from(TESTS))]
    for test in draw(st.lists(st.sampled_from(TESTS), max_size=4)):
        sign = draw(st.sampled_from(["&&", "||", "and", "or"]))
        if draw(st.booleans()):
            parts = ["(", *parts, ")"]
        parts += [sign, test]
    return " ".join(parts)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "10"]),
        st.sampled_from(NAMES),
        st.sampled_from(PATTERNS),
        st.sampled_from(["read", "write", "*"]),
        st.sampled_from(["allow", "deny"]),
    ),
    min_size=1,
    max_size=8,
)
LINKS = st.sets(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)).filter(lambda n: n[0] < n[1]),
    max_size=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    matchers(),
    st.sampled_from([ALLOW, BOTH, FIRST]),
    ROWS,
    LINKS,
    st.sampled_from(["", "priority"]),
)
def test_own_model_decides_as_pycasbin_does(
    matcher: str,
    effect: str,
    rows: list[tuple[str, ...]],
    links: set[tuple[str, str]],
    priority: str,
) -> None:
    """A stock enforcer with the same model and rows gives the same answer and the same rule."""
    first = "priority" if priority else "number"
    text = conf(matcher, f"{first}, sub, obj, act, eft", e=effect, g="_, _")
    lines = ["p, " + ", ".join(row) for row in rows]
    lines += [f"g, {member}, {role}" for member, role in sorted(links)]
    engine = Engine.from_csv("\n".join(lines), text)
    model = CasbinModel()
    model.load_model_from_text(text)
    model["p"]["p"].policy += [list(row) for row in rows]
    model["g"]["g"].policy += [list(link) for link in sorted(links)]
    model.sort_policies_by_priority()
    stock = casbin.Enforcer(model)
    stock.build_role_links()
    for subject in ("ann", "bob", "a", "nobody"):
        for resource in PATHS:
            for action in ("read", "delete"):
                allowed, rule = stock.enforce_ex(subject, resource, action)
                number = rows.index(tuple(rule)) + 1 if rule else 0
                name = f"p#{number}" if number else ""
                assert ask(engine, subject, resource, action) == (allowed, name)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "x1", "y"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "*", "b", "**"]), min_size=1, max_size=4),
)
def test_resource_patterns_mean_in_own_models_what_they_mean_in_ours(
    path: list[str], pattern: list[str]
) -> None:
    """resMatch is for canonical paths and patterns, and refuses others."""
    wanted, asked = "/" + "/".join(pattern), "/" + "/".join(path)
    model = conf("r.sub == p.sub && resMatch(r.obj, p.obj)")
    try:
        engine = Engine.from_csv(f"p, ann, {wanted}, read\n", model)
    except PolicyError:
        assert "**" in pattern[:-1]
        return
    assert ask(engine, "ann", asked)[0] is matches(asked, wanted)
    with pytest.raises(RequestError):
        ask(engine, "ann", "/a//b")


# --- a model that fails while it decides ---


def test_model_that_fails_denies_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a denial with the kind of error; who asked for what is not in the log."""
    model = conf("ipMatch(r.sub, p.sub) && r.obj == p.obj", "sub, obj, eft")
    rows = "p, 10.0.0.0/8, data1, allow\np, 192.0.2.0/24, data1, allow\n"
    engine = Engine.from_csv(rows, model)
    assert ask(engine, "10.1.2.3") == (True, "p#1")
    assert ask(engine, "198.51.100.1") == (False, "")
    with caplog.at_level(logging.WARNING):
        assert ask(engine, "mallory") == (False, "model: ValueError")
    assert "ValueError" in caplog.text
    assert "mallory" not in caplog.text


@pytest.mark.parametrize(
    ("subject", "field"),
    [("", "subject"), ("a\nb", "subject"), ("\ud800", "subject"), ("x" * 513, "subject")],
)
def test_request_that_is_no_text_is_refused(subject: str, field: str) -> None:
    """A lone surrogate has no bytes, and raises as everything else that is not printable."""
    engine = Engine.from_csv("p, alice, data1, read\n", conf())
    with pytest.raises(RequestError) as caught:
        ask(engine, subject)
    assert caught.value.field == field


# --- refusals of models, by line and column ---


@pytest.mark.parametrize(
    ("model", "line", "column", "words"),
    [
        ("", 0, 0, "expected a definition of r"),
        ("#" * 16_385, 0, 0, "at most 16384 bytes"),
        ("[requests]\n", 1, 1, "no section '[requests]'"),
        ("  [matchers\n", 1, 3, "no section '[matchers'"),
        ("m = r.sub == p.sub\n", 1, 1, "in its section"),
        ("[matchers]\nm\n", 2, 1, "name = definition"),
        ("[matchers]\nm2 = r.sub == p.sub\n", 2, 1, "in its section"),
        ("[matchers]\nm = a\nm = b\n", 3, 1, "once"),
        ("[role_definition]\ng3 = _, _\n", 2, 1, "in its section"),
        ("[matchers]\nm = r.sub == p.sub && \\\nr.obj == p.obj\n", 2, 1, "in one line"),
        (conf(r="sub, obj, verb"), 2, 5, "a request has different fields among"),
        (conf(r="sub, obj, act, act"), 2, 5, "a request has different fields among"),
        (conf(p="sub, obj, act, Eft"), 4, 5, "names such as"),
        (conf(p="sub, obj, act,"), 4, 5, "names such as"),
        (conf(p="sub, obj, act, act"), 4, 5, "different names"),
        (conf(p=", ".join(f"f{n}" for n in range(33))), 4, 5, "1 to 32 names"),
        (conf(g="_"), 6, 5, '"_, _" or'),
        (conf(g="_, _, _, _"), 6, 5, '"_, _" or'),
        (conf(g="_, _, (_, _)"), 6, 5, '"_, _" or'),
        (conf(g="sub, role"), 6, 5, '"_, _" or'),
        (conf(g2="_, _"), 6, 6, "g2 only where there is g"),
        (conf(e="!some(where (p.eft == deny))"), 6, 5, "has to need an allow"),
        (conf(e="subjectPriority(p.eft) || deny"), 6, 5, "has to need an allow"),
        (conf(e="some(where (p.eft == allow)) || true"), 6, 5, "has to need an allow"),
        (conf(p="sub, obj, act, cond"), 8, 5, "needs cond(p.cond, ...)"),
    ],
)
def test_bad_model_is_named_by_line_and_column(
    model: str, line: int, column: int, words: str
) -> None:
    """Every definition that is not understood is refused at its place."""
    found = faults_of(model)
    assert [(at, col) for at, col, text in found if words in text] == [(line, column)], found


def test_all_faults_of_a_model_are_named_at_once() -> None:
    """Nobody has to repair a model one error at a time."""
    found = faults_of(conf("nothing", "Sub", "verb", "allow"))
    assert [(line, column) for line, column, _ in found] == [(2, 5), (4, 5), (6, 5), (8, 5)]


@pytest.mark.parametrize(
    ("matcher", "column", "words"),
    [
        ("", 0, "expected a test"),
        ("r.sub", 0, "nothing else"),
        ("r.sub == p.sub &&", 17, "expected a test"),
        ("r.sub == p.sub r.obj == p.obj", 15, "expected && or ||"),
        ("r.sub == p.sub == r.obj", 15, "nothing else"),
        ("&& r.sub == p.sub", 0, "expected a test"),
        ("(r.sub == p.sub", 15, "not closed"),
        ("r.sub == p.sub)", 14, "expected && or ||"),
        ("()", 1, "expected a test"),
        ("!!r.sub == p.sub", 1, "twice"),
        ("not ! r.sub == p.sub", 4, "twice"),
        ("r.name == p.sub", 0, "there is no field r.name"),
        ("r.sub == p.name", 0, "there is no field p.name"),
        ("r.sub == p.sub && r.ctx == p.obj", 18, "only cond"),
        ("r_sub == p_sub", 0, "nothing else"),
        ("r2.sub == p2.sub", 0, "nothing else"),
        ("r.sub == 'a&&b'", 0, "rewrites && between quotes"),
        ("r.sub == '/r.txt'", 0, "rewrites r. between quotes"),
        ("r.sub == 'what!'", 0, "rewrites ! between quotes"),
        (r"r.sub == 'a\'b'", 0, "nothing else"),
        ("r.sub == 'open", 0, "nothing else"),
        ("r.sub in 'admin'", 0, "wants a list"),
        ("r.sub in ('admin')", 0, "wants a list"),
        ("r.sub in p.sub", 0, "wants a list"),
        ("r.sub in []", 0, "wants a list"),
        ("eval(p.obj)", 0, "eval() splices"),
        ("eval (p.obj) || r.sub == p.sub", 0, "eval() splices"),
        ("regexMatch(r.obj, p.obj)", 0, "regexMatch is no function"),
        ("keyMatch4(r.obj, p.obj)", 0, "keyMatch4 is no function"),
        ("timeMatch('_', '_')", 0, "timeMatch is no function"),
        ("keyGet(r.obj, p.obj) == 'x'", 0, "keyGet is no function"),
        ("int(p.obj) == 1", 0, "int is no function"),
        ("keyMatch(r.obj)", 0, "keyMatch takes 2 arguments"),
        ("keyMatch(r.obj, p.obj, p.act)", 0, "keyMatch takes 2 arguments"),
        ("keyMatch(r.obj, keyMatch)", 0, "fields and texts in quotes"),
        ("keyMatch(r.obj p.obj)", 0, "fields and texts in quotes"),
        ("keyMatch(*p.obj)", 0, "fields and texts in quotes"),
        ("keyMatch2(p.obj, r.obj)", 0, "never from who asks"),
        ("keyMatch2(r.obj, '/(a+)+')", 0, "regular expressions"),
        ("ipMatch(r.sub, 'home')", 0, "IP address or a network"),
        ("g2(r.sub, p.sub)", 0, "g2 has no role_definition"),
        ("g(r.sub, p.sub, p.obj)", 0, "g takes 2 arguments"),
        ("cond(p.act, 'allow', r.ctx)", 0, "expected cond(p.cond"),
        ("cond('ctx.a == 1', 'allow', r.ctx)", 0, "expected cond(p.cond"),
        ("!cond(p.cond, 'allow', r.ctx)", 1, "cond is not negated"),
        ("not (r.sub == p.sub || (cond(p.cond, 'allow', r.ctx)))", 24, "cond is not negated"),
        ("1 == 1", 0, "nothing else"),
        ("True", 0, "nothing else"),
        ("r.sub == p.sub; r.obj == p.obj", 14, "nothing else"),
        ("r.sub == p.sub, r.obj == p.obj", 14, "nothing else"),
        ("r.sub == p.sub\rand r.obj == p.obj", 14, "nothing else"),
        ("r.sub = p.sub", 0, "nothing else"),
    ],
)
def test_bad_matcher_is_named_by_line_and_column(matcher: str, column: int, words: str) -> None:
    """A matcher is a closed grammar; the first word outside it is where it is refused."""
    found = faults_of(conf(matcher, r="sub, obj, act, ctx", g="_, _"))
    assert [(line, at) for line, at, _ in found] == [(10, column + 5 - (not matcher))], found
    assert words in found[0][2]


HOSTILE = [
    "r.sub.__class__ == p.sub",
    "r.sub.upper() == p.sub",
    "r.sub.format(p.sub) == p.sub",
    "r.ctx.attributes == p.sub",
    "r.ctx.note_change(p.sub)",
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "[x for x in r.sub] == p.sub",
    "{r.sub: p.sub for r in p}",
    "(lambda: 1)()",
    "f'{r.sub}' == p.sub",
    "f'{1:>9999999}' == p.sub",
    "'%9999999s' % r.sub == p.sub",
    "'%s' % r.sub == p.sub",
    "'a' * 10**9 == p.sub",
    "r.sub * 99999 == p.sub",
    "r.sub + r.sub == p.sub",
    "r.sub - 1 == p.sub",
    "r.sub / 0 == p.sub",
    "1 / 0 == 1",
    "(10 ** 3999999) % 7 == 1",
    "1 << 99999999",
    "r.sub[0] == p.sub",
    "r.sub if r.act else p.sub",
    "(x := r.sub) == p.sub",
    "r.sub is p.sub",
    "list(r.sub) == p.sub",
    "dict(a=1) == p.sub",
    "str(r.ctx) == p.sub",
    "rand() < 1",
    "keyMatch.__globals__",
    "g.__closure__",
    "~r.sub == p.sub",
    "r.sub == p.sub\x0bor 1",
    "r.sub == p.sub\u2028or 1",
    "r.sub\u00a0== p.sub",
    "ｒ.sub == p.sub",
    "r.sub == p.sub" + " && r.sub == p.sub" * 200,
    "(" * 100 + "r.sub == p.sub" + ")" * 100,
    "(" * 1500,
    "!" * 2000 + "r.sub == p.sub",
    "not " * 500 + "r.sub == p.sub",
    "[" * 2000,
    "-" * 2000,
    "r.sub == '" + "x" * MAX_BYTES + "'",
    "((" * 10_000_000,
]


@pytest.mark.parametrize("matcher", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_matcher_is_refused_when_it_is_read(matcher: str) -> None:
    """None of it reaches Python's parser or Casbin's evaluator."""
    assert len(faults_of(conf(matcher, r="sub, obj, act, ctx"))) == 1


def test_deepest_and_longest_matchers_that_are_read_decide() -> None:
    """What the grammar lets in, the evaluator can bear."""
    deep = "!(" * MAX_DEPTH + "r.sub == p.sub" + ")" * MAX_DEPTH
    assert ask(Engine.from_csv("p, ann, data1, read\n", conf(deep)), "ann")[0]
    long = "r.sub == p.sub" + " || r.sub == p.sub" * 100
    assert len(long) < MAX_BYTES
    assert ask(Engine.from_csv("p, ann, data1, read\n", conf(long)), "ann")[0]


# --- refusals of rows, by line and column ---


@pytest.mark.parametrize(
    ("matcher", "row", "column", "words"),
    [
        (ACL, "p, bob, data1, read, allow, a", 1, "expected 7 fields"),
        (ACL, "p2, bob, data1, read, , allow, a, 1", 1, 'expected "p" or "g"'),
        (ACL, "g2, bob, admin", 1, 'expected "p" or "g"'),
        (ACL, "g, bob", 1, "expected 2 fields"),
        (ACL, "g, bob, admin, one", 1, "expected 2 fields"),
        (ACL, "g, bob,", 4, "no empty fields"),
        (ACL, "g, ann, admin", 4, "already used in line 2"),
        (ACL, "p, " + "b" * 513 + ", data1, read, , allow, a, 1", 4, "at most 512 bytes"),
        (ACL, "p, bob, data1, read, ctx.a ==, allow, a, 1", 30, "expected a value"),
        (ACL, "p, bob, data1, read, , Deny, a, 1", 24, 'exactly "allow" or "deny"'),
        (ACL, "p, bob, data1, read, , , a, 1", 24, 'exactly "allow" or "deny"'),
        (ACL, "p, bob, data1, read, , deny, first, 1", 30, "already used in line 1"),
        (ACL, "p, bob, data1, read, , deny, , 1", 30, "expected an id"),
        (ACL, "p, bob, data1, read, , deny, model: x, 1", 30, "expected an id"),
        (ACL, "p, bob, data1, read, , deny, a, -1", 33, "a number from 0"),
        (ACL, "p, bob, data1, read, , deny, a, first", 33, "a number from 0"),
        (ACL, "p, bob, data1, read, , deny, a, 1.5", 33, "a number from 0"),
        (ACL, "p, bob, data1, read, , deny, a, 007", 33, "a number from 0"),
        (ACL, "p, bob, data1, read, , deny, a, ²", 33, "a number from 0"),
        ("keyMatch(r.obj, p.obj)", "p, bob, /a/*/b, read, , allow, a, 1", 9, "behind a star"),
        ("keyMatch2(r.obj, p.obj)", "p, bob, /(a+)+, read, , allow, a, 1", 9, "regular expr"),
        ("keyMatch2(r.obj, p.obj)", "p, bob, /a/**, read, , allow, a, 1", 9, 'after "/"'),
        ("keyMatch2(r.obj, p.obj)", "p, bob, /a*, read, , allow, a, 1", 9, 'after "/"'),
        ("keyMatch2(r.obj, p.obj)", "p, bob, /*/*/x, read, , allow, a, 1", 9, "at most one"),
        ("keyMatch2(r.obj, p.obj)", "p, bob, /a{3}, read, , allow, a, 1", 9, "a variable is"),
        ("keyMatch3(r.obj, p.obj)", "p, bob, /{a}{b}, read, , allow, a, 1", 9, "one variable"),
        ("keyMatch3(r.obj, p.obj)", "p, bob, /{a/b}, read, , allow, a, 1", 9, "a variable is"),
        ("globMatch(r.obj, p.obj)", "p, bob, /{a..z}, read, , allow, a, 1", 9, "of all signs"),
        ("globMatch(r.obj, p.obj)", 'p, bob, "/a,b/**", read, , allow, a, 1', 10, "of all signs"),
        ("globMatch(r.obj, p.obj)", "p, bob, /*a*, read, , allow, a, 1", 9, "at most one"),
        ("globMatch(r.obj, p.obj)", "p, bob, /**/a/**, read, , allow, a, 1", 9, "at most one"),
        ("ipMatch(r.sub, p.sub)", "p, home, data1, read, , allow, a, 1", 4, "IP address"),
        ("resMatch(r.obj, p.obj)", "p, bob, /a//b, read, , allow, a, 1", 9, 'no empty, "."'),
    ],
)
def test_bad_row_of_an_own_model_is_named_by_line_and_column(
    matcher: str, row: str, column: int, words: str
) -> None:
    """What the model calls eft, cond, id and priority is checked, and what it uses as a pattern."""
    model = read_model(
        conf(
            f"{matcher} && g(r.sub, p.sub) && cond(p.cond, p.eft, r.ctx)",
            "sub, obj, act, cond, eft, id, priority",
            "sub, obj, act, ctx",
            g="_, _",
        )
    )
    good = "p, 192.0.2.1, /a, read, , allow, first, 1\ng, ann, admin\n"
    with pytest.raises(PolicyError) as caught:
        read_rules(good + row + "\n", model)
    ((line, where, text),) = [(b.line, b.column, b.expected) for b in caught.value.violations]
    assert (line, where) == (3, column)
    assert words in text


def test_own_model_has_bounded_rows_and_chains() -> None:
    """Lines, chains of roles and cycles have the bounds that ours have, or lower ones."""
    model = read_model(conf("g(r.sub, p.sub)", g="_, _", g2="_, _"))
    with pytest.raises(PolicyError, match="at most 10000 lines"):
        read_rules("p, a, b, c\n" * 10_001, model)
    chain = "".join(f"g, r{n}, r{n + 1}\n" for n in range(10))
    with pytest.raises(PolicyError, match="more than 9 roles"):
        read_rules("p, a, b, c\n" + chain, model)
    with pytest.raises(PolicyError, match="its own role"):
        read_rules("p, a, b, c\ng, a, b\ng, b, a\n", model)
    assert read_rules("p, a, b, c\ng, a, b\ng2, b, a\n", model).lines  # kinds are kept apart
    with pytest.raises(PolicyError, match="locks all out"):
        read_rules("g, a, b\n", model)
