"""Questions and answers as they travel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf import struct_pb2

from aegis.errors import AegisError, FieldViolation, InvalidArgument
from aegis.serving.doors import validate
from aegis.v1 import policy_pb2
from aegis_policy import Engine
from aegis_server.policy.decisions import BEST_EFFORT, Consistency, Decision
from aegis_server.policy.question import Question

DEFAULT_DOMAIN = "aegis"
_ATTRIBUTES_MAX = 64
_DEPTH_MAX = 16
SOURCES = {
    "engine": policy_pb2.DECISION_SOURCE_ENGINE,
    "memory": policy_pb2.DECISION_SOURCE_MEMORY,
    "redis": policy_pb2.DECISION_SOURCE_REDIS,
    "local": policy_pb2.DECISION_SOURCE_LOCAL,
}


_NO_ATTRIBUTES: Mapping[str, object] = MappingProxyType({})


class _BadAttribute(Exception):
    def __init__(self, path: str, expected: str) -> None:
        super().__init__(expected)
        self.path = path
        self.expected = expected


def question_of(request: policy_pb2.EvaluateRequest, prefix: str = "") -> Question:
    """Reads a question; raises `InvalidArgument` (FIELD_INVALID) naming the field."""
    has = request.HasField("attributes")
    return Question(
        request.subject,
        request.domain or DEFAULT_DOMAIN,
        request.resource,
        request.action,
        attributes_of(request.attributes, prefix) if has else _NO_ATTRIBUTES,
    )


def attributes_of(struct: struct_pb2.Struct, prefix: str = "") -> dict[str, object]:
    """Reads attributes; raises `InvalidArgument` (FIELD_INVALID) naming the field."""
    fields = struct.fields
    if len(fields) > _ATTRIBUTES_MAX:
        raise bad(f"{prefix}attributes", f"at most {_ATTRIBUTES_MAX} names")
    try:
        return _values(fields, _DEPTH_MAX)
    except _BadAttribute as error:
        raise bad(f"{prefix}attributes{error.path}", error.expected) from None


def _values(fields: Mapping[str, struct_pb2.Value], depth: int) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in fields.items():
        try:
            values[name] = _value(value, depth)
        except _BadAttribute as error:
            raise _BadAttribute(f".{name}{error.path}", error.expected) from None
    return values


def _value(value: struct_pb2.Value, depth: int) -> object:
    """Returns a Struct's value as Python's, nested at most `depth` deep."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if depth == 0:
        raise _BadAttribute("", "nested too deep")
    if kind == "number_value":
        # NaN is neither above nor below a bound: it would slip past every rule with a limit.
        if not math.isfinite(value.number_value):
            raise _BadAttribute("", "expected a finite number")
        return value.number_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _values(value.struct_value.fields, depth - 1)
    if kind == "list_value":
        items = []
        for index, item in enumerate(value.list_value.values):
            try:
                items.append(_value(item, depth - 1))
            except _BadAttribute as error:
                raise _BadAttribute(f"[{index}]{error.path}", error.expected) from None
        return items
    return None


def consistency_of(
    request: policy_pb2.EvaluateRequest | policy_pb2.BatchEvaluateRequest,
) -> Consistency:
    """Reads how new the rules must be."""
    if not request.HasField("consistency"):
        return BEST_EFFORT
    asked = request.consistency
    return Consistency(at_least=asked.at_least_revision, current=asked.fully_current)


def answer_message(decision: Decision) -> policy_pb2.EvaluateResponse:
    """Returns an answer as it is sent."""
    response = policy_pb2.EvaluateResponse(
        effect=policy_pb2.EFFECT_ALLOW if decision.allowed else policy_pb2.EFFECT_DENY,
        rule_id=decision.rule_id,
        revision=decision.revision,
        decision_id=decision.decision_id,
        source=SOURCES[decision.source],
    )
    if decision.valid_until is not None:
        response.valid_until.FromDatetime(decision.valid_until)
    return response


def is_left_to(engine: Engine, request: policy_pb2.EvaluateRequest) -> bool:
    """Says whether the engine itself refuses what the constraints of a question would.

    The compiled one takes nothing that is not canonical, so checking before it would be checking
    twice. Others take any text, and no engine looks at a consistency.
    """
    return engine.compiled and not request.HasField("consistency")


def checked(request: policy_pb2.EvaluateRequest, engine: Engine) -> Question | AegisError:
    """Reads one question of many; what is wrong with it is returned, not raised."""
    try:
        if not is_left_to(engine, request):
            validate(request)
        return question_of(request)
    except AegisError as error:
        return error


def bad(field: str, description: str) -> InvalidArgument:
    """Returns the error of one field."""
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])
