"""Two people: what decides whom to believe is done by one, and said again by another.

Both have to be people. A service account is whose who holds its key, and with its owner would be
one person who says it twice.
"""

from __future__ import annotations

from aegis.errors import FailedPrecondition

_PEOPLE = "user:"
# Nobody has done what came with the program.
_PROGRAM = "server:"


def require_two_people(subject: str, *, first: str, deed: str) -> None:
    """Raises `FailedPrecondition` (SECOND_PERSON_NEEDED) unless two people are in it.

    `first` has done the first half: empty when nobody has yet, or when it came with the program;
    `deed` is what it takes two for, as it follows "to".
    """
    if first.startswith(_PROGRAM):
        first = ""
    for each in (subject, first):
        if each and not each.startswith(_PEOPLE):
            raise FailedPrecondition(
                "SECOND_PERSON_NEEDED",
                f"it takes two people to {deed}, and {each} is none",
                first=first,
            )
    if subject == first:
        raise FailedPrecondition(
            "SECOND_PERSON_NEEDED",
            f"it takes two people to {deed}: somebody else than {subject} has to say the same",
            first=first,
        )
