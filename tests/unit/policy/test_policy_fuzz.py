"""Any text at all: read or refused with its place, never another error, never without end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Engine, PolicyError, RequestError, read_model, read_rules, to_csv
from aegis_policy.baseline import baseline_csv
from aegis_policy.conditions import compile_condition
from aegis_policy.models import DEFAULT_MODEL
from aegis_policy.syntax import ConditionError

LONG = 1_000_000
MODEL = (
    "[request_definition]\nr = sub, obj, act, ctx\n[policy_definition]\np = sub, obj, act, eft\n"
    "[role_definition]\ng = _, _\n[policy_effect]\ne = priority(p.eft) || deny\n"
    "[matchers]\nm = (g(r.sub, p.sub) || r.sub == 'root') && !keyMatch2(r.obj, p.obj)"
    ' && r.act in ["read", p.act]\n'
)
ROWS = "p, ann, /a/:id, read, deny\np, bob, /a/*, write, allow\ng, ann, bob\n"
CONDITIONS = [
    "ctx.level > 3 and not (ctx.team in ['ops', \"dev\"])",
    'weekly("Mon-Fri", "09:00", "17:30", "Europe/Berlin") or ctx.a.b == 1.5',
    'between("2026-03-02T00:00:00Z", "2026-03-02T13:00:00Z") and cidr(ctx.ip, "10.0.0.0/8")',
]
# Characters that mean something to some reader, and such as no reader expects.
SIGNS = "rpg.,_ ()[]{}\"'=!<>&|*/:#;\\\n\r\t\x00\x0b\u2028\u200b\ufeff\u0301ｒéa1-+%@^$?"
OPENINGS = ["(", "[", "{", '"', "'", "!", "not ", "-", "~", "(((", "g(", "ctx.", "x, ", "/", '""']


def mutated(data: st.DataObject, text: str) -> str:
    """Returns a text with some places cut, doubled, or overwritten."""
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        middle = data.draw(
            st.one_of(
                st.text(SIGNS, max_size=6),
                st.text(max_size=4),
                st.just(text[start:end] * 2),
                st.sampled_from(["and", "in", "eval(p.obj)", "__class__", "\ud800"]),
            )
        )
        text = text[:start] + middle + text[end:]
    return text


def read_or_refused(text: str, model: str | None = None) -> None:
    """Builds an engine and asks it, or gets the one error there is."""
    error: PolicyError | None = None
    try:
        rules = read_rules(text, read_model(model))
        engine = Engine(rules)
    except PolicyError as refusal:
        error = refusal
    if error is not None:
        assert all(bad.line >= 0 and bad.column >= 0 and bad.expected for bad in error.violations)
        return
    assert read_rules(to_csv(rules.lines), rules.model).lines == rules.lines
    try:
        engine.decide(subject="user:ann", domain="aegis", resource="/a/1", action="read")
    except RequestError as refused:
        raise AssertionError("this request is canonical") from refused


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(SIGNS, max_size=200)))
def test_any_text_is_no_model_but_is_refused_as_one(text: str) -> None:
    """Arbitrary text as model.conf, as a matcher, and as rules of an own model."""
    read_or_refused(ROWS, text)
    read_or_refused(ROWS, MODEL.rpartition("m = ")[0] + f"m = {text}\n")
    read_or_refused(text, MODEL)
    read_or_refused(text)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_model_is_read_or_refused(data: st.DataObject) -> None:
    """A model with some places broken either runs, and answers, or is refused when it is read."""
    read_or_refused(ROWS, mutated(data, MODEL))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_default_model_is_read_or_refused(data: st.DataObject) -> None:
    """Ours, broken: it never stays ours while it means something else."""
    text = mutated(data, DEFAULT_MODEL)
    try:
        model = read_model(text)
    except PolicyError:
        return
    if model.compiled:
        assert read_model(model.to_conf()).matcher == read_model().matcher


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_rules_are_read_or_refused(data: st.DataObject) -> None:
    """The baseline and rows of an own model, broken in some places."""
    read_or_refused(mutated(data, baseline_csv()))
    read_or_refused(mutated(data, ROWS), MODEL)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Bytes that were flipped, as a file with errors is read."""
    content = bytearray(baseline_csv().encode())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for errors in ("replace", "surrogateescape"):
        read_or_refused(content.decode("utf-8", errors))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_condition_is_compiled_or_refused(data: st.DataObject) -> None:
    """Arbitrary and broken conditions; the place of the fault is inside the text or at its end."""
    source = data.draw(
        st.one_of(
            st.text(max_size=100),
            st.text(SIGNS + "ctx", max_size=100),
            st.sampled_from(CONDITIONS).map(lambda text: mutated(data, text)),
        )
    )
    error: ConditionError | None = None
    try:
        compile_condition(source)
    except ConditionError as refusal:
        error = refusal
    assert error is None or (error.message and 0 <= error.offset <= len(source))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("opening", OPENINGS)
def test_endless_nesting_and_endless_lines_are_refused(opening: str) -> None:
    """A megabyte of one sign: every reader's work grows with the text, and no stack with it."""
    text = opening * (LONG // len(opening))
    with pytest.raises(ConditionError):
        compile_condition(text)
    with pytest.raises(PolicyError):
        read_model(text)
    with pytest.raises(PolicyError):
        read_model(MODEL.rpartition("m = ")[0] + f"m = {text}\n")
    with pytest.raises(PolicyError):
        read_rules(f"p, user:ann, *, {text}\n")
    with pytest.raises(PolicyError):
        read_rules(f"p, {text}\n", read_model(MODEL))
    with pytest.raises(PolicyError):
        read_rules(f'p, user:ann, *, /a, read, "{text}", allow, x\n')
