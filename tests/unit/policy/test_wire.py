"""What spares plain questions the general check never lets a bad one pass."""

from __future__ import annotations

import protovalidate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.errors import InvalidArgument
from aegis.v1 import policy_pb2
from aegis_policy import Engine, RequestError
from aegis_policy.models import DEFAULT_MODEL
from aegis_server.policy.wire import attributes_of, checked, is_left_to, question_of

RULES = "p, user:ann, *, /**, *, , allow, all\n"
COMPILED = Engine.from_csv(RULES)
INTERPRETED = Engine.from_csv(
    RULES, DEFAULT_MODEL.replace('(p.act == "*" || p.act == r.act)', "p.act == p.act")
)
NAMES = st.one_of(
    st.sampled_from(["user:ann", "role:admin", "", "user:", "User:ann", "user:ann\n", "a:b/c@d"]),
    st.text(max_size=20),
)
PATHS = st.one_of(
    st.sampled_from(
        ["/a", "/a/b", "/", "", "/a/", "//a", "/a/../b", "/a\x7f", "/é", "/" + "x" * 600]
    ),
    st.text(alphabet="/ab.\x00\x7fé *", max_size=12),
)
WORDS = st.one_of(st.sampled_from(["read", "restart_pod", "", "Read", "1st", "aegis"]), st.text())


def test_plain_question_is_spared_a_check_that_the_engine_makes_itself() -> None:
    """But not one with a consistency, nor any for PyCasbin, which takes every text."""
    plain = policy_pb2.EvaluateRequest(subject="user:ann", resource="/a/b", action="read")
    assert is_left_to(COMPILED, plain)
    assert not is_left_to(INTERPRETED, plain)
    plain.consistency.fully_current = True
    assert not is_left_to(COMPILED, plain)


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"a": float("nan")}, "attributes.a"),
        ({"a": {"b": [1, float("inf")]}}, "attributes.a.b[1]"),
        ({str(number): 1 for number in range(65)}, "attributes"),
    ],
)
def test_bad_attribute_is_named(attributes: dict, field: str) -> None:
    """Numbers have to be finite and names few; the path leads to the bad one."""
    request = policy_pb2.EvaluateRequest()
    request.attributes.update(attributes)
    with pytest.raises(InvalidArgument) as caught:
        question_of(request)
    assert caught.value.violations[0].field == field


def test_attributes_nested_too_deep_are_refused() -> None:
    """Seventeen levels are one too many, sixteen are not."""
    request = policy_pb2.EvaluateRequest()
    deep: dict = {"x": 1}
    for _ in range(15):
        deep = {"x": deep}
    request.attributes.update(deep)
    assert attributes_of(request.attributes)
    request.attributes.update({"x": deep})
    with pytest.raises(InvalidArgument, match="nested too deep"):
        attributes_of(request.attributes)


def test_bad_question_among_many_is_returned_and_not_raised() -> None:
    """So that it does not take the others with it."""
    request = policy_pb2.EvaluateRequest()
    request.attributes.update({"a": float("nan")})
    error = checked(request, COMPILED)
    assert isinstance(error, InvalidArgument)
    assert {each.field for each in error.violations} == {"attributes.a"}


def test_what_the_engine_does_not_refuse_itself_is_checked_before_it() -> None:
    """PyCasbin takes any text for a subject, and no engine looks at a consistency."""
    error = checked(policy_pb2.EvaluateRequest(subject="nobody"), INTERPRETED)
    assert isinstance(error, InvalidArgument)
    assert {each.field for each in error.violations} == {"subject", "resource", "action"}
    plain = policy_pb2.EvaluateRequest(subject="user:ann", resource="/a", action="read")
    plain.consistency.at_least_revision = -1
    error = checked(plain, COMPILED)
    assert isinstance(error, InvalidArgument)


@settings(max_examples=300)
@given(subject=NAMES, domain=st.one_of(st.just(""), WORDS), resource=PATHS, action=WORDS)
def test_compiled_engine_refuses_what_the_constraints_refuse(
    subject: str, domain: str, resource: str, action: str
) -> None:
    """So a question that was not checked before it is never decided when it is bad."""
    request = policy_pb2.EvaluateRequest(
        subject=subject, domain=domain, resource=resource, action=action
    )
    try:
        COMPILED.decide(subject=subject, domain=domain or "aegis", resource=resource, action=action)
    except RequestError:
        return
    assert not protovalidate.collect_violations(request)
