"""Pages of rules: which lines a filter means.

A listing stays with the revision it began with, whose number is in its page tokens: edits made
meanwhile neither hide a line from it nor show one twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import islice

from aegis.errors import FieldViolation, InvalidArgument
from aegis_policy import Line, matches
from aegis_policy.models import read_model
from aegis_policy.paths import fault_of_resource
from aegis_server.policy.places import Placed
from aegis_server.policy.store import Policy


@dataclass(frozen=True, slots=True)
class Filter:
    """What lines have to be about; empty means anything."""

    subject: str = ""
    resource: str = ""
    action: str = ""
    domain: str = ""
    rule_id: str = ""

    def check(self) -> None:
        """Raises `InvalidArgument` (FIELD_INVALID) for a resource that is no canonical path."""
        if self.resource and (fault := fault_of_resource(self.resource)):
            violation = FieldViolation("resource", fault)
            raise InvalidArgument("FIELD_INVALID", f"resource: {fault}", violations=[violation])


def page_of(policy: Policy, wanted: Filter, *, after: int, limit: int) -> list[Placed]:
    """Returns the lines behind a place that the filter means."""
    own_model = not read_model(policy.revision.model_conf or None).compiled

    def found() -> Iterator[Placed]:
        for placed in policy.placed:
            if placed.place > after and _concerns(placed.line, wanted, own_model):
                yield placed

    return list(islice(found(), limit))


def _concerns(line: Line, wanted: Filter, own_model: bool) -> bool:
    if own_model:
        # What its columns mean is the model's affair: the text has to be in one of them.
        return all(not text or text in line.fields for text in astuple(wanted))
    if line.kind == "p":
        return _rule_concerns(line, wanted)
    if wanted.resource or wanted.action or wanted.rule_id:
        return False
    member, role, *domain = line.fields
    return wanted.subject in ("", member, role) and wanted.domain in (
        "",
        *(domain or [wanted.domain]),
    )


def _rule_concerns(line: Line, wanted: Filter) -> bool:
    subject, domain, pattern, action, _, _, rule_id = line.fields
    return (
        wanted.subject in ("", subject)
        and (domain == "*" or wanted.domain in ("", domain))
        and (action == "*" or wanted.action in ("", action))
        and wanted.rule_id in ("", rule_id)
        and (not wanted.resource or matches(wanted.resource, pattern))
    )
