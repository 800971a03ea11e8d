"""Schemas on the wire and as values, both ways."""

from __future__ import annotations

from aegis.v1 import dataset_pb2
from aegis_learning.schema import Categorical, Continuous, Feature, Schema, SchemaError

__all__ = ["message_of", "schema_of"]


def schema_of(message: dataset_pb2.Schema) -> Schema:
    """Returns the value of a message; raises `SchemaError` for what makes no sense."""
    return Schema(
        tuple(map(_feature_of, message.features)),
        message.label.name,
        tuple(message.label.classes),
    )


def message_of(schema: Schema) -> dataset_pb2.Schema:
    """Returns the message of a value."""
    message = dataset_pb2.Schema(
        label=dataset_pb2.Schema.Label(name=schema.label, classes=schema.classes)
    )
    for feature in schema.features:
        column = message.features.add(name=feature.name)
        if isinstance(feature, Continuous):
            column.continuous.low, column.continuous.high = feature.low, feature.high
        else:
            column.categorical.values.extend(feature.values)
    return message


def _feature_of(message: dataset_pb2.Schema.Feature) -> Feature:
    match message.WhichOneof("kind"):
        case "continuous":
            return Continuous(message.name, message.continuous.low, message.continuous.high)
        case "categorical":
            return Categorical(message.name, tuple(message.categorical.values))
        case _:
            raise SchemaError(f"{message.name}: neither continuous nor categorical")
