"""Isolation: an examination that comes to an end, whatever an update or an examiner does.

1. The whole round, within its time. A process that died is given one more try: somebody may have
   killed it, or the machine was short of memory for a moment.
2. Whoever is to blame is looked for: each update alone. Those that come through are examined once
   more together; an update that hangs or kills an examiner by itself is HELD.
3. When it is no single update's fault, it is the examiner's: the round is examined without it, and
   what the others would have accepted is HELD, because one examiner has not seen it.
4. When nothing comes to an end, every update is HELD.

Each HELD one has a finding that names the examiner and says what became of it. All of it takes at
most about four times the time of one examination.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from aegis_server.review.case import Case, Judgement, Ruling, Verdict
from aegis_server.review.desks import Desk, Examined, Numbers, Stuck, Task, Vet
from aegis_server.review.evidence.numbers import amended
from aegis_server.review.findings import CORROBORATING, Finding

log = logging.getLogger(__name__)

FAILURE = "failure"
# A single update takes a fraction of its round's time.
_ALONE_SHARE = 0.25
_ALONE_SECONDS_MIN = 2.0


@dataclass(frozen=True, slots=True)
class Examining:
    """How rounds are examined: by what, for how long, and what is left for evidence."""

    vet: Vet
    seconds: float
    numbers: Numbers | None = None

    async def examine(self, desk: Desk, case: Case) -> Examined:
        """Returns a judgement for each submission, in their order, come what may."""
        if not case.submissions:
            return Examined(Ruling(()))
        try:
            return await self._whole(desk, case)
        except Stuck as stuck:
            log.warning("round %d: %s; looking for what is to blame", case.round, stuck)
            return await self._isolated(desk, case, stuck)

    async def _whole(self, desk: Desk, case: Case) -> Examined:
        try:
            return await self._try(desk, case)
        except Stuck as stuck:
            if not stuck.died:
                raise
            return await self._try(desk, case)

    async def _isolated(self, desk: Desk, case: Case, stuck: Stuck) -> Examined:
        faults = await self._alone(desk, case, stuck)
        cleared = [each for each in case.submissions if each.update_id not in faults]
        if faults and cleared:
            try:
                rest = await self._try(desk, replace(case, submissions=tuple(cleared)))
            except Stuck as again:
                stuck = again
            else:
                return _joined(case, rest, faults)
        try:
            without = await self._try(desk, case, without={stuck.examiner})
        except Stuck as again:
            log.warning("round %d: %s; all its updates are held", case.round, again)
            everything = {each.update_id: again for each in case.submissions}
            return _joined(case, Examined(Ruling(())), everything)
        return _amended(without, _unseen(without.ruling, stuck))

    async def _alone(self, desk: Desk, case: Case, stuck: Stuck) -> dict[str, Stuck]:
        """Returns the updates that come to no end alone, and why.

        Once those that do not have taken the time of one examination, the others count as well:
        a round of nothing but such updates must not keep a desk for ever.
        """
        left = self.seconds
        alone = max(_ALONE_SECONDS_MIN, _ALONE_SHARE * self.seconds)
        faults: dict[str, Stuck] = {}
        for submission in case.submissions:
            if left <= 0:
                faults[submission.update_id] = stuck
                continue
            try:
                await self._try(desk, replace(case, submissions=(submission,)), seconds=alone)
            except Stuck as fault:
                faults[submission.update_id] = fault
                left -= alone
        return faults

    async def _try(
        self,
        desk: Desk,
        case: Case,
        *,
        without: Collection[str] = (),
        seconds: float | None = None,
    ) -> Examined:
        # Of parts of a round no evidence is made but what is joined to the whole.
        task = Task(case, self.vet, frozenset(without), self.numbers)
        return await desk.do(task, seconds=self.seconds if seconds is None else seconds)


def failed(update_id: str, findings: Iterable[Finding]) -> Judgement:
    """Returns the judgement on an update that could not be examined: a person has to look."""
    return Judgement(
        update_id,
        Verdict.HELD,
        0.0,
        tuple(findings),
        would_change=("It is judged once every examiner comes to an end with it.",),
    )


def failure(examiner: str, text: str) -> Finding:
    """Returns the finding that an examiner could not do its work."""
    return Finding(examiner, FAILURE, 1.0, 1.0, CORROBORATING, text)


def all_held(case: Case, finding: Finding) -> Examined:
    """Returns a ruling for a round that cannot be examined at all."""
    held = tuple(failed(each.update_id, [finding]) for each in case.submissions)
    return Examined(Ruling(held, why=finding.text))


def _finding(stuck: Stuck) -> Finding:
    return failure(stuck.examiner, f"{stuck.examiner} could not examine it: it {stuck.how}")


def _joined(case: Case, rest: Examined, faults: dict[str, Stuck]) -> Examined:
    """Puts those that could not be examined to the others, in the order of the round."""
    judged = {each.update_id: each for each in rest.ruling.judgements}
    judged |= {name: failed(name, [_finding(stuck)]) for name, stuck in faults.items()}
    inorder = tuple(judged[each.update_id] for each in case.submissions)
    return replace(rest, ruling=replace(rest.ruling, judgements=inorder))


def _amended(examined: Examined, ruling: Ruling) -> Examined:
    """Evidence says what was decided in the end."""
    judged = {each.update_id: each for each in ruling.judgements}
    numbers = {
        update_id: amended(made, ruling, judged[update_id])
        for update_id, made in examined.numbers.items()
    }
    return Examined(ruling, numbers)


def _unseen(ruling: Ruling, stuck: Stuck) -> Ruling:
    """What the other examiners rejected stays rejected; what they accepted is held."""
    finding = _finding(stuck)
    judgements = tuple(
        replace(
            each,
            verdict=Verdict.HELD if each.verdict is Verdict.ACCEPTED else each.verdict,
            findings=(finding, *each.findings),
            would_change=(
                f"It is judged once {stuck.examiner} comes to an end with it.",
                *each.would_change,
            ),
        )
        for each in ruling.judgements
    )
    return replace(ruling, judgements=judgements)
