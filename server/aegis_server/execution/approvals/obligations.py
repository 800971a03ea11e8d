"""What the policy says about an action: whether it may be done, and who must have approved.

Obligations are rules that deny an action named after them (see `aegis_policy.obligations`). One
holds when the answer to its name is no and a rule said so: without any such rule nobody has to
approve. All questions about one action are answered by one revision.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from aegis.errors import AegisError, Unavailable
from aegis_policy import Engine
from aegis_policy.obligations import is_malformed, obligation_of
from aegis_server.execution.approvals.counting import (
    APPROVALS_MAX,
    DEMANDS_MAX,
    Demand,
    demands_of,
)
from aegis_server.policy.decisions import Decision, Decisions, Question, Snapshot

BREAK_GLASS = "break_glass"


class Answer(NamedTuple):
    """May it be done, who must have approved, and may the glass be broken for it."""

    decision: Decision
    demands: tuple[Demand, ...]
    glass: Decision | None = None


class Names(NamedTuple):
    """Actions of the rules that oblige to approvals, and those that were meant to."""

    good: tuple[str, ...]
    malformed: tuple[str, ...]


def names_of(engine: Engine) -> Names:
    """Returns every action of the rules that obliges to approvals, or was meant to.

    In an admin's own model it may stand in any field but the one that names the rule.
    """
    fields = engine.model.rule
    at = [place for place, name in enumerate(fields) if name != "id"]
    if engine.compiled:
        at = [fields.index("act")]
    rows = (line.fields for _, line in engine.lines() if line.kind == "p")
    words = sorted({row[place] for row in rows for place in at if place < len(row)})
    return Names(
        tuple(word for word in words if obligation_of(word) is not None),
        tuple(word for word in words if is_malformed(word)),
    )


class Obligations:
    """Asks the policy about actions."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        # Looked up once a revision: there may be ten thousand lines.
        self._known: tuple[Snapshot, Names] | None = None

    async def ask(self, question: Question, *, break_glass: bool = False) -> Answer:
        """Returns what the newest rules say.

        Raises `Unavailable` when those cannot be known or used, when they demand more approvals
        than an action can carry, or when nobody can say which (POLICY_UNUSABLE); `InvalidArgument`
        (FIELD_INVALID).
        """
        await self._decisions.refresh()
        snapshot = self._decisions.snapshot
        names = self._names(snapshot)
        asked = [
            question,
            *(question._replace(action=name) for name in (*names.good, *names.malformed)),
        ]
        if break_glass:
            asked.append(question._replace(action=BREAK_GLASS))
        answers = [_good(each) for each in await self._decisions.decide_all(asked)]
        glass = answers.pop() if break_glass else None
        decision = answers.pop(0)
        owed = [
            name
            for name, each in zip((*names.good, *names.malformed), answers, strict=True)
            if not each.allowed and each.rule_id
        ]
        if decision.allowed:
            _refuse_unclear(snapshot.engine, names, owed)
        return Answer(decision, _bounded(demands_of(owed)), glass)

    def _names(self, snapshot: Snapshot) -> Names:
        if self._known is None or self._known[0] is not snapshot:
            self._known = snapshot, names_of(snapshot.engine)
        return self._known[1]


def _good(answer: Decision | AegisError) -> Decision:
    if isinstance(answer, AegisError):
        raise answer
    return answer


def _refuse_unclear(engine: Engine, names: Names, owed: Collection[str]) -> None:
    """Raises `Unavailable` (POLICY_UNUSABLE) where nobody can say who has to approve.

    What was meant to demand somebody must not be taken for demanding nobody. In an own model a
    name may be a pattern, which says nothing about itself.
    """
    model = engine.model
    denies = "deny" in model.effect and "eft" in model.rule
    if not denies and (names.good or names.malformed):
        name = (*names.good, *names.malformed)[0]
        raise Unavailable(
            "POLICY_UNUSABLE", f"a rule denies {name}, but no rule of this model ever denies"
        )
    unclear = [name for name in names.malformed if name in owed or not engine.compiled]
    if unclear:
        raise Unavailable(
            "POLICY_UNUSABLE",
            f"a rule denies {unclear[0]}, which names no group and number: expected a name such"
            " as without_1_oncall",
        )


def _bounded(demands: tuple[Demand, ...]) -> tuple[Demand, ...]:
    if len(demands) > DEMANDS_MAX or sum(each.needed for each in demands) > APPROVALS_MAX:
        raise Unavailable(
            "POLICY_UNUSABLE",
            f"the rules demand more than {DEMANDS_MAX} groups or {APPROVALS_MAX} people to approve",
        )
    return demands
