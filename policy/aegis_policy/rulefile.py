"""Rule files: Casbin's CSV, read strictly, before Casbin sees any of it.

    p, SUBJECT OR ROLE, DOMAIN, RESOURCE PATTERN, ACTION, CONDITION, EFFECT, ID
    g, MEMBER, ROLE, DOMAIN
    g2, MEMBER, ROLE

A role given in one domain brings there what that role has everywhere: a deny bound to it by `g2`
holds its members by `g`, too.

Casbin drops a line with an unknown type, treats a misspelt `deny` as no rule at all, and lets a
line with a missing field break every later decision. Here the whole file is good or none of it is
used, and every bad place is named at once. Spaces around a field are layout and are removed;
inside double quotes they are text (and then mostly wrong). A line that starts with # is a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aegis_policy.conditions import Condition
from aegis_policy.lines import Line, to_csv
from aegis_policy.models import Model, read_model
from aegis_policy.readers import OwnReader, Reader


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file that passed every check. `conditions` are compiled, by their text.

    `line_numbers` say where in the text each of the `lines` was; empty when there was no text.
    """

    lines: tuple[Line, ...]
    conditions: Mapping[str, Condition] = field(repr=False)
    model: Model = field(default_factory=read_model, repr=False)
    line_numbers: tuple[int, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def to_csv(self) -> str:
        """Returns the canonical text: reading it gives the same lines again."""
        return to_csv(self.lines)


def read_rules(text: str, model: Model | None = None) -> RuleFile:
    """Reads a rule file; raises `PolicyError` with everything that is wrong with it.

    For a model that is not compiled the fields are those that it defines.
    """
    model = model or read_model()
    reader = Reader() if model.compiled else OwnReader(model)
    for number, raw in enumerate(text.split("\n"), start=1):
        reader.read(number, raw.removesuffix("\r"))
    reader.check_file(model)
    lines, numbers = tuple(reader.lines), tuple(reader.numbers)
    return RuleFile(lines, reader.conditions, model, line_numbers=numbers)


def read_lines(lines: Iterable[Line]) -> Mapping[str, Condition]:
    """Checks lines of Aegis' own model, each alone; returns their conditions by their text.

    Raises `PolicyError`, whose line numbers count these lines.
    """
    reader = Reader()
    for number, line in enumerate(lines, start=1):
        reader.read(number, to_csv([line]).removesuffix("\n"))
    reader.check()
    return reader.conditions
