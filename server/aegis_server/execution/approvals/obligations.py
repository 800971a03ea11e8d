"""What the policy says about an action: whether it may be done, and who must have approved.

Obligations are rules that deny an action named after them (see `aegis_policy.obligations`). One
holds when the answer to its name is no and a rule said so: without any such rule nobody has to
approve. All questions about one action are answered by one revision.
"""

from __future__ import annotations

from typing import NamedTuple

from aegis.errors import AegisError, Unavailable
from aegis_policy import Engine
from aegis_policy.obligations import obligation_of
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


def names_of(engine: Engine) -> tuple[str, ...]:
    """Returns every action of the rules that obliges to approvals."""
    words = {word for _, line in engine.lines() if line.kind == "p" for word in line.fields}
    return tuple(sorted(word for word in words if obligation_of(word) is not None))


class Obligations:
    """Asks the policy about actions."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        # Looked up once a revision: there may be ten thousand lines.
        self._known: tuple[Snapshot, tuple[str, ...]] | None = None

    async def ask(self, question: Question, *, break_glass: bool = False) -> Answer:
        """Returns what the newest rules say.

        Raises `Unavailable` when those cannot be known or used, or when they demand more approvals
        than an action can carry (POLICY_UNUSABLE); `InvalidArgument` (FIELD_INVALID).
        """
        await self._decisions.refresh()
        names = self._names(self._decisions.snapshot)
        asked = [question, *(question._replace(action=name) for name in names)]
        if break_glass:
            asked.append(question._replace(action=BREAK_GLASS))
        answers = [_good(each) for each in await self._decisions.decide_all(asked)]
        glass = answers.pop() if break_glass else None
        owed = (
            name
            for name, each in zip(names, answers[1:], strict=True)
            if not each.allowed and each.rule_id
        )
        return Answer(answers[0], _bounded(demands_of(owed)), glass)

    def _names(self, snapshot: Snapshot) -> tuple[str, ...]:
        if self._known is None or self._known[0] is not snapshot:
            self._known = snapshot, names_of(snapshot.engine)
        return self._known[1]


def _good(answer: Decision | AegisError) -> Decision:
    if isinstance(answer, AegisError):
        raise answer
    return answer


def _bounded(demands: tuple[Demand, ...]) -> tuple[Demand, ...]:
    if len(demands) > DEMANDS_MAX or sum(each.needed for each in demands) > APPROVALS_MAX:
        raise Unavailable(
            "POLICY_UNUSABLE",
            f"the rules demand more than {DEMANDS_MAX} groups or {APPROVALS_MAX} people to approve",
        )
    return demands
