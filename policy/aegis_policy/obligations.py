"""Actions that say who must have approved: `without_1_oncall`, `step2_without_signed_2_owners`.

A rule that denies one of them, `p, role:automation, *, /clusters/*/namespaces/shop/**,
without_1_oncall, , deny, shop-needs-oncall`, means that role:automation may do nothing there
without one of role:oncall. A step comes after those with lower numbers and is the first where none
is named; `signed` demands approvals signed with the approvers' own keys.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"(?:step([1-9])_)?without_(signed_)?([1-9])_([a-z][a-z0-9_]*)")
_MEANT = re.compile(r"(?:step[0-9]*_?)?with_?out_.*")


class Obligation(NamedTuple):
    """So many different people of one group, e.g. `role:oncall`, in one step."""

    step: int
    group: str
    detached: bool
    needed: int


def obligation_of(action: str) -> Obligation | None:
    """Returns what an action's name obliges to, or None when it is an ordinary action."""
    match = _FORM.fullmatch(action)
    if match is None:
        return None
    step, signed, needed, name = match.groups()
    return Obligation(int(step or 1), f"role:{name.replace('_', '-')}", bool(signed), int(needed))


def is_malformed(action: str) -> bool:
    """Says whether a name was probably meant as an obligation and is none."""
    return _MEANT.fullmatch(action) is not None and obligation_of(action) is None
