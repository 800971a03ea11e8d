"""What the columns and classes of a data set are called, for people."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.schema import Continuous, Schema


@dataclass(frozen=True, slots=True)
class Words:
    """Names of a model's inputs and classes, in their order; empty where nobody told them."""

    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: Schema) -> Words:
        """Returns the names of a data set's columns, one for each input they become."""
        names: list[str] = []
        for column in schema.features:
            if isinstance(column, Continuous):
                names.append(column.name)
            else:
                names += [f"{column.name} = {value}" for value in column.values]
        return cls(tuple(names), schema.classes)

    def feature(self, number: int) -> str:
        """Returns the name of the input at this position."""
        return self.features[number] if number < len(self.features) else f"input {number}"

    def class_(self, number: int) -> str:
        """Returns the name of the class at this position."""
        return self.classes[number] if number < len(self.classes) else str(number)
