"""Protobuf as an attacker writes it: unknown fields at every level, and messages at random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

# The same unknown field in each of the wire's types.
UNKNOWN = {
    "varint": b"\xf8\x3e\x01",
    "fixed64": b"\xf9\x3e" + bytes(8),
    "bytes": b"\xfa\x3e\x02hi",
    "group": b"\xfb\x3e\x08\x01\xfc\x3e",
    "fixed32": b"\xfd\x3e" + bytes(4),
}


def varint(number: int) -> bytes:
    """Returns a number as protobuf writes it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def delimited(field: FieldDescriptor, content: bytes) -> bytes:
    """Returns a field of bytes, text or message."""
    return varint(field.number << 3 | 2) + varint(len(content)) + content


def with_more(message: Message, more: bytes) -> Iterator[tuple[str, bytes]]:
    """Returns the message once for each message in it, with `more` at the end of that one."""
    yield "", message.SerializeToString() + more
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        rest = type(message)()
        rest.CopyFrom(message)
        rest.ClearField(field.name)
        before = rest.SerializeToString()
        for number, inner in enumerate(_inner(message, field, value, more)):
            for path, content in inner:
                yield f"{field.name}[{number}].{path}", before + delimited(field, content)


def _inner(message: Message, field: FieldDescriptor, value: Any, more: bytes) -> Iterator[Any]:
    if field.message_type.GetOptions().map_entry:
        for key in value:
            alone = type(message)()
            getattr(alone, field.name)[key] = value[key]
            # One byte of tag and one of length: small on purpose.
            yield [("entry", alone.SerializeToString()[2:] + more)]
        return
    for child in value if field.is_repeated else (value,):
        yield with_more(child, more)


_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["demo", "web", "sandbox", "aegis", "automation:autopilot", "role:oncall"]),
    st.uuids().map(str),
)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BYTES: st.one_of(
        st.binary(max_size=40),
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=32, max_size=32),
    ),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 12),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2_000_000_000),
    FieldDescriptor.TYPE_ENUM: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 4),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
}


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Returns messages of a type with anything in any of their fields."""
    fields = st.fixed_dictionaries(
        {}, optional={field.name: _values(field) for field in descriptor.fields}
    )
    return fields.map(lambda values: GetMessageClass(descriptor)(**values))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return st.dictionaries(_TEXTS, _TEXTS, max_size=3)
    one = messages(kind) if kind is not None else _SCALARS[field.type]
    return st.lists(one, max_size=3) if field.is_repeated else one
