"""What plans differ in, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from aegis.v1 import training_pb2


@dataclass(frozen=True, slots=True)
class Difference:
    """A field by its path, e.g. `settings.malicious`, and its value in each plan."""

    field: str
    values: tuple[str, ...]


def differences(plans: Sequence[training_pb2.RunPlan]) -> list[Difference]:
    """Returns the fields not all plans agree in, in the order of the contract."""
    return list(_differences(plans, ""))


def _differences(messages: Sequence[Message], prefix: str) -> Iterator[Difference]:
    shown = [_plain(message) for message in messages]
    for field in messages[0].DESCRIPTOR.fields:
        group = field.message_type
        # Only what has fields of ours is looked into: durations are values.
        if group is not None and not field.is_repeated and group.file.package == "aegis.v1":
            parts = [getattr(message, field.name) for message in messages]
            yield from _differences(parts, f"{prefix}{field.name}.")
            continue
        values = tuple(_text(plain.get(field.name, "")) for plain in shown)
        if len(set(values)) > 1:
            yield Difference(prefix + field.name, values)


def _plain(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
