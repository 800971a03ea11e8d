"""The condition language: what it says, what it refuses, and what it makes of bad attributes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.conditions import Moment, Unanswerable, compile_condition
from aegis_policy.syntax import ConditionError

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def holds(source: str, **attributes: Any) -> bool:
    return compile_condition(source).holds(Moment(attributes, NOON))


@pytest.mark.parametrize(
    ("source", "attributes", "expected"),
    [
        ("ctx.a == 'x'", {"a": "x"}, True),
        ('ctx.a == "x"', {"a": "y"}, False),
        ("ctx.a != 1", {"a": 2}, True),
        ("ctx.a == 1", {"a": 1.0}, True),
        ("ctx.a < 2.5", {"a": 2}, True),
        ("ctx.a >= -3", {"a": -3}, True),
        ("ctx.a <= ctx.b", {"a": "a", "b": "b"}, True),
        ("ctx.a > 1e3", {"a": 1000}, False),
        ("ctx.a.b.c == true", {"a": {"b": {"c": True}}}, True),
        ("ctx.a", {"a": True}, True),
        ("not ctx.a", {"a": True}, False),
        ("ctx.a in ['x', 'y']", {"a": "y"}, True),
        ("ctx.a in []", {"a": "y"}, False),
        ("'x' in ctx.tags", {"tags": ["w", "x"]}, True),
        ("ctx.a or ctx.b and ctx.c", {"a": True, "b": False, "c": False}, True),
        ("(ctx.a or ctx.b) and ctx.c", {"a": True, "b": False, "c": False}, False),
        ("not ctx.a and ctx.b", {"a": False, "b": False}, False),
        ("not (ctx.a == 1) or ctx.a == 1", {"a": 1}, True),
        ("startswith(ctx.a, 'ab')", {"a": "abc"}, True),
        ("startswith('abc', ctx.a)", {"a": "b"}, False),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": "10.1.2.3"}, True),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": "11.1.2.3"}, False),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": "::ffff:10.1.2.3"}, True),
        ("cidr(ctx.ip, '::ffff:10.0.0.0/104')", {"ip": "10.1.2.3"}, True),
        ("cidr(ctx.ip, '::ffff:10.0.0.0/104')", {"ip": "::ffff:10.1.2.3"}, True),
        ("cidr(ctx.ip, '::ffff:10.0.0.0/104')", {"ip": "11.1.2.3"}, False),
        ("cidr(ctx.ip, '::/0')", {"ip": "::ffff:10.1.2.3"}, True),
        ("cidr(ctx.ip, '::/0')", {"ip": "10.1.2.3"}, False),
        ("cidr(ctx.ip, '2001:db8::/32')", {"ip": "2001:db8::1"}, True),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": "2001:db8::1"}, False),
        ("between('2026-03-02T12:00:00Z', '2026-03-03T00:00:00+02:00')", {}, True),
        ("weekly('Mon', '09:00', '17:30', 'Europe/Berlin')", {}, True),
        ("weekly('Tue-Sun', '09:00', '17:30', 'Europe/Berlin')", {}, False),
    ],
)
def test_condition_says(source: str, attributes: dict[str, Any], expected: bool) -> None:
    """Each construct of the language means what it reads like."""
    assert holds(source, **attributes) is expected


@pytest.mark.parametrize(
    ("source", "attributes"),
    [
        ("ctx.a == 1", {}),
        ("ctx.a.b == 1", {"a": 1}),
        ("ctx.a == 1", {"a": None}),
        ("ctx.a == 1", {"a": "1"}),
        ("ctx.a != 1", {"a": "1"}),
        ("ctx.a == true", {"a": 1}),
        ("ctx.a == 1", {"a": True}),
        ("ctx.a", {"a": 1}),
        ("not ctx.a", {"a": "yes"}),
        ("ctx.a > 10", {"a": float("nan")}),
        ("ctx.a <= 10", {"a": float("inf")}),
        ("ctx.a > 10", {"a": True}),
        ("ctx.a > ctx.b", {"a": 1, "b": "1"}),
        ("ctx.a in ['x']", {"a": 1}),
        ("'x' in ctx.a", {"a": "xyz"}),
        ("'x' in ctx.a", {"a": ["x", 1]}),
        ("ctx.a == ctx.b", {"a": [1], "b": [1]}),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": "ten"}),
        ("cidr(ctx.ip, '10.0.0.0/8')", {"ip": 167772161}),
        ("startswith(ctx.a, 'x')", {"a": 1}),
    ],
)
def test_missing_or_mistyped_attribute_is_unanswerable(
    source: str, attributes: dict[str, Any]
) -> None:
    """A wrong type is never quietly unequal: that would step around a deny."""
    with pytest.raises(Unanswerable):
        holds(source, **attributes)


def test_left_side_is_looked_at_first() -> None:
    """What `and` and `or` no longer need to know may be missing."""
    assert holds("ctx.a == 1 or ctx.missing == 1", a=1) is True
    assert holds("ctx.a == 2 and ctx.missing == 1", a=1) is False


@pytest.mark.parametrize(
    ("source", "offset", "words"),
    [
        ("", 0, "expected a value"),
        ("ctx.a ==", 8, "expected a value"),
        ("ctx.a == 1 ctx.b", 11, 'expected "and", "or" or the end'),
        ("ctx.a === 1", 8, "means nothing here"),
        ("ctx.a = 1", 6, "means nothing here"),
        ("ctx.a == 'x", 9, "closing quote"),
        ("ctx.a == 'x\\'y'", 9, "backslash"),
        ("ctx == 1", 4, 'expected "ctx." and a name'),
        ("ctx.a.1", 6, "expected a name after the dot"),
        ("a == 1", 0, "attributes are written ctx.a"),
        ("ctx.a + 1 == 2", 6, "means nothing here"),
        ("ctx.a ** 2 == 2", 6, "means nothing here"),
        ("ctx.a < ctx.b < ctx.c", 14, 'expected "and", "or" or the end'),
        ("__import__('os')", 0, "is no function"),
        ("regex(ctx.a, '(a+)+')", 0, "is no function"),
        ("ctx.a.b('x')", 7, 'expected "and", "or" or the end'),
        ("startswith(ctx.a)", 0, "takes 2 arguments"),
        ("startswith(ctx.a, 1)", 18, "expected a text"),
        ("cidr(ctx.ip, '10.0.0.1/8')", 13, "without host bits"),
        ("cidr(ctx.ip, ctx.net)", 13, "expected a text in quotes"),
        ("between('2026-01-01', '2026-02-01T00:00:00Z')", 0, "lacks its zone"),
        ("between('2026-02-01T00:00:00Z', '2026-01-01T00:00:00Z')", 0, "after the beginning"),
        ("weekly('Mo-Fr', '09:00', '17:00', 'UTC')", 0, "list of days"),
        ("weekly('Mon', '9:00', '17:00', 'UTC')", 0, "time of day"),
        ("weekly('Mon', '09:00', '09:00', 'UTC')", 0, "no window goes"),
        ("weekly('Mon-Sun', '00:00', '24:00', 'UTC')", 0, "never closes"),
        ("weekly('Mon', '09:00', '17:00', 'Mars/Base')", 0, "not a time zone"),
        ("weekly('Mon', '09:00', '17:00', '../../etc/passwd')", 0, "not a time zone"),
        ("'x'", 0, "expected a condition, found a value"),
        ("ctx.a and 1", 10, "expected a condition, found a value"),
        ("ctx.a == 1 and 'x' == 2", 19, "compares text with number"),
        ("ctx.a in 'x'", 6, "a value and a list"),
        ("1 in ['x'] or ctx.a", 6, "compares number with text"),
        ("ctx.a == [1]", 6, 'only compared with "in"'),
        ("true < false or ctx.a", 5, "have no order"),
        ("true", 0, "never depends on the request"),
        ("1 == 1", 0, "never depends on the request"),
        ("ctx.a == 1e999", 9, "too large"),
        ("ctx.a == 0x10", 9, "means nothing here"),
        ("ctx.a\n== 1", 5, "means nothing here"),
    ],
)
def test_bad_condition_is_refused_where_it_is_wrong(source: str, offset: int, words: str) -> None:
    """The error points at the character and says what was expected."""
    with pytest.raises(ConditionError) as caught:
        compile_condition(source)
    assert words in caught.value.message
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    "source",
    [
        "ctx.a == '" + "x" * 1024 + "'",
        "(" * 17 + "ctx.a" + ")" * 17,
        "not " * 17 + "ctx.a",
        "startswith(" * 17 + "ctx.a" + ", 'x')" * 17,
        " or ".join(["ctx.a"] * 65),
        "ctx.a in [" + ",".join(["1"] * 65) + "]",
        "(" * 1000,
        "not " * 250,
    ],
)
def test_condition_beyond_its_limits_is_refused(source: str) -> None:
    """1 KiB, 16 deep, 64 parts: nothing that could exhaust the stack or the clock."""
    with pytest.raises(ConditionError):
        compile_condition(source)


@given(st.text(alphabet="ctx.ab()[]'\",=!<>0159 -andornti", max_size=60))
def test_any_text_either_compiles_or_is_refused_politely(source: str) -> None:
    """No input makes the parser fail in any other way."""
    try:
        assert compile_condition(source).attributes
    except ConditionError as refusal:
        error = refusal
    else:
        return
    assert 0 <= error.offset <= len(source)


def test_condition_tells_which_attributes_it_may_read() -> None:
    """Only these names can change an answer, so only they belong into a cache key."""
    condition = compile_condition("ctx.a.b == 1 or startswith(ctx.c, 'x') or 1 in ctx.d")
    assert condition.attributes == {"a", "c", "d"}
