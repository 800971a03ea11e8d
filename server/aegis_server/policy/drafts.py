"""Rules that are to become a revision: lines in their places, and the engine they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq

from aegis.errors import FieldViolation, InvalidArgument
from aegis_policy import Engine, Line, PolicyError, RuleFile, read_rules
from aegis_policy.models import read_model
from aegis_server.policy.loading import engine_at
from aegis_server.policy.places import Placed, arranged, step
from aegis_server.policy.store import Policy

# Errors travel in HTTP/2 trailers, which peers bound at 8 KiB: name this much, count the rest.
_VIOLATION_BYTES_MAX = 3072


@dataclass(frozen=True, slots=True)
class Draft:
    """What the next revision would be.

    `rules` are there when something already read the same lines. `origins` says which field of the
    request a line, counted from 1, came from.
    """

    placed: Sequence[Placed]
    model_conf: str = ""
    rules: RuleFile | None = field(default=None, repr=False)
    origins: Mapping[int, str] = field(default_factory=dict)

    @property
    def lines(self) -> list[Line]:
        """The lines in their order."""
        return [placed.line for placed in self.placed]


def of_text(before: Policy, csv: str, model_conf: str) -> Draft:
    """Returns the draft that a whole rule file is; raises `PolicyError` in the file's own lines."""
    rules = read_rules(csv, read_model(model_conf or None))
    return Draft(arranged(before.placed, rules.lines), model_conf, rules)


def engine_of(draft: Draft, before: Policy, current: Engine) -> Engine:
    """Returns the engine of a draft; raises `PolicyError` counting the draft's lines from 1.

    `current` is the engine of `before`: a small change is made to it, not to a hundred thousand
    lines. What comes out is compared with what was meant, whatever `current` was built from.
    """
    removed, added = step(before.placed, draft.placed)
    small = len(removed) + len(added) < len(draft.placed) // 4
    if small and current.compiled and draft.model_conf == before.revision.model_conf:
        try:
            engine = current.updated(removed, added)
        except (PolicyError, KeyError):
            pass  # the whole file is read again, to name the lines, or because the places differ
        else:
            if engine.size == len(draft.placed) and all(map(eq, engine.lines(), draft.placed)):
                return engine
    if draft.rules is None:
        return engine_at(draft.placed, draft.model_conf)
    return Engine(draft.rules, places=[place for place, _ in draft.placed])


def invalid(error: PolicyError, origins: Mapping[int, str]) -> InvalidArgument:
    """Returns the error of the wire (POLICY_INVALID), naming as many bad places as it can carry."""
    return InvalidArgument("POLICY_INVALID", str(error), violations=_named(error, origins))


def _named(error: PolicyError, origins: Mapping[int, str]) -> Iterator[FieldViolation]:
    left = _VIOLATION_BYTES_MAX
    for index, bad in enumerate(error.violations):
        named = FieldViolation("csv", bad.expected)
        if bad.line in origins:
            named = FieldViolation(origins[bad.line], bad.expected)
        elif bad.line:
            named = FieldViolation(f"line {bad.line}", f"column {bad.column}: {bad.expected}")
        left -= len(named.field) + len(named.description.encode())
        if left < 0:
            yield FieldViolation("csv", f"and {len(error.violations) - index} more")
            return
        yield named
