"""The candidates of a round for the next model, each without somebody else.

See `publishing` for what it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aegis_learning.aggregation.fedadam import MOMENTUM
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters, flatten
from aegis_learning.rows import Split
from aegis_server.review import pushes, triggers
from aegis_server.review.examiners.backdoor import UPDATES_MIN, noises_of
from aegis_server.review.examiners.golden_set import quality_at
from aegis_server.review.giving import Gifts
from aegis_server.review.history import History, Published, Scan
from aegis_server.review.population import Population
from aegis_server.review.pushes import Push, Vector
from aegis_server.review.triggers import Trigger

# Makes one of the updates at some places of a round.
Combine = Callable[[Population, Sequence[int]], Aggregate]

# Before this round the sums are of too few rounds, and models are not yet what they will be.
_GROUPS_FROM, _SCANS_FROM = 3, 5
# A group has to be that far apart. Sums of honest rounds get there as well: a few sites may have
# most of a class.
_SEPARATION = 3.0
# Share of golden rows that obey the trigger no more once the group is out. One group of 108 honest
# runs of the lab came there, at 0.2.
_DROP = 0.2
# The trigger that was found may be another one of the group's, where many work by themselves (two
# classes). Then the one that tells the two models apart most is looked for, and a group that is
# looked at that closely has to be farther apart, and to be missed more.
_SEPARATION_CLOSE, _DROP_CLOSE = 6.0, 0.3
# Where it cannot be known what the model would be without the group: separation alone, and under
# privacy noise, whose tails are those of a normal.
_SEPARATION_ALONE, _SEPARATION_NOISY = 12.0, 4.5
# Deviations by which one pushes a trigger that is believed already.
_PUSHES, _PUSHES_NOISY = 3.0, 2.0
_OVERLAP = 0.5
# Nats the golden loss may rise without a group. Attackers hardly are missed; sites that have most
# of a class are, and it is by their rows that they stand out. Under privacy noise they do not, and
# a model of fewer has more of it: without attackers the loss rose by up to 0.63 in 27 runs of the
# lab, without an honest group by 1.3, and accuracy fell by a third.
_MISSED, _MISSED_NOISY = 0.4, 1.0
# A model is one to go back to when no trigger is that far above what is natural.
_CLEAN_LIFT = triggers.LIFT / 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """What leads to a model, and without whom."""

    delta: Array
    by_rule: Aggregate
    members: tuple[int, ...]
    excluded: tuple[int, ...]
    gifts: Gifts
    state: Parameters | None
    went_back: bool = False


class Candidates:
    """Makes the candidates of a round; what it finds goes into the history it returns.

    `population` is the round as it was sent, `counted` the same with the lengths that count.
    """

    def __init__(
        self,
        population: Population,
        counted: Population,
        accepted: tuple[int, ...],
        combine: Combine,
        least: int,
        history: History,
    ) -> None:
        self._population = population
        self._counted = counted
        self._accepted = accepted
        self._combine = combine
        self._least = max(least, 1)
        self._history = history
        self._bounds = triggers.extremes(population.golden)
        self._noisy = bool(noises_of(population).any())
        self._tables = self._summed()

    def _summed(self) -> Vector | None:
        """Returns what those who are here did to triggers so far, or None of too few."""
        if len(self._population) < UPDATES_MIN:
            return None
        sums = dict(self._history.tables)
        for name, each in zip(self._names, pushes.effects(self._population), strict=True):
            sums[name] = sums[name] + each if name in sums else each
        self._history = replace(self._history, tables=sums)
        here = np.stack([sums[name] for name in self._names])
        return pushes.even(here, noises_of(self._population))

    @property
    def _names(self) -> list[str]:
        submissions = self._population.case.submissions
        return [each.participant or each.update_id for each in submissions]

    def pushers(self, believed: Iterable[Trigger]) -> frozenset[int]:
        """Returns the places of who pushes one of these triggers; nobody when that is most."""
        if self._tables is None or self._history.rounds < _GROUPS_FROM:
            return frozenset()
        least = _PUSHES_NOISY if self._noisy else _PUSHES
        bad = {
            int(i)
            for trigger in believed
            for i in np.flatnonzero(pushes.pushed(self._tables, trigger, self._bounds) >= least)
        }
        return frozenset(bad) if 2 * len(bad) < len(self._population) else frozenset()

    def made(self, bad: frozenset[int]) -> Candidate:
        """Returns the candidate without these, and without what they gave; raises as `combine`."""
        before = self._history.gifts
        assert before is not None  # noqa: S101  # `publish` has begun them
        kept = tuple(i for i in self._accepted if i not in bad)
        if len(kept) < self._least:
            kept, bad = self._accepted, frozenset()
        made = self._combine(self._counted, kept)
        lost = before.without({self._names[i] for i in bad})
        gifts = lost.gifts.and_of(
            {self._names[i]: self._counted.matrix[i] for i in kept}, made, before
        )
        delta, state = made.update, made.state
        if lost.model is not None:
            delta = (delta + lost.model).astype(np.float32)
        if lost.velocity is not None and state is not None:
            state = {MOMENTUM: (state[MOMENTUM] + lost.velocity).astype(np.float32)}
        excluded = tuple(i for i in self._accepted if i in bad)
        return Candidate(delta, made, kept, excluded, gifts, state)

    def judged(self, made: Candidate) -> Candidate:
        """Returns the candidate without the group of this and the last round, if it is one."""
        push = self._apart()
        group = frozenset(self._names[i] for i in push.group) if push else frozenset()
        before, self._history = self._history.group, replace(self._history, group=group)
        again = len(group & before) >= _OVERLAP * len(group | before)
        if push is None or not before or not again:
            return made
        group_now = frozenset(push.group)
        return self.without(made, push.trigger, group_now, push.separation) or made

    def _apart(self) -> Push | None:
        if self._tables is None or self._history.rounds < _GROUPS_FROM:
            return None
        push = pushes.strongest(self._tables, self._population.weights, self._bounds)
        return push if push.separation >= _SEPARATION else None

    def without(
        self, made: Candidate, trigger: Trigger, group: frozenset[int], separation: float
    ) -> Candidate | None:
        """Returns the candidate without a group as well, if it is the group that makes a trigger
        work and the model does without it; None if not.
        """
        better = self.made(frozenset(made.excluded) | group | self.pushers([trigger]))
        if np.array_equal(better.delta, made.delta):
            return None
        if self._missed(made, better):
            return None
        culprit = self._taught(made, better, trigger, separation)
        if culprit is None:
            return None
        self._history = self._history.believing(culprit)
        return better

    def _taught(
        self, made: Candidate, better: Candidate, trigger: Trigger, separation: float
    ) -> Trigger | None:
        """Returns the trigger that works in one candidate and much less in the other."""

        def drop(each: Trigger) -> float:
            return self._obeying(made, each) - self._obeying(better, each)

        if drop(trigger) >= _DROP:
            return trigger
        if separation >= _SEPARATION_CLOSE:
            family, golden = self._population.family, self._population.golden
            one, other = (self._population.moved(each.delta) for each in (made, better))
            worst = max(pushes.between(family, one, other, golden), key=drop)
            if drop(worst) >= _DROP_CLOSE:
                return worst
        alone = _SEPARATION_NOISY if self._noisy else _SEPARATION_ALONE
        return trigger if not made.gifts.known and separation >= alone else None

    def _missed(self, made: Candidate, better: Candidate) -> bool:
        losses = [quality_at(self._population, each.delta).loss for each in (made, better)]
        return losses[1] - losses[0] > (_MISSED_NOISY if self._noisy else _MISSED)

    def _obeying(self, made: Candidate, trigger: Trigger) -> float:
        model = self._population.moved(made.delta)
        return triggers.success(self._population.family, model, self._population.golden, trigger)

    def scanned(self, made: Candidate) -> Scan:
        """Returns what the search finds in a candidate."""
        model = self._population.moved(made.delta)
        return searched(self._population.family, model, self._population.golden, self._history)

    def back(self, made: Candidate) -> Candidate:
        """Returns the way to the last model that was clean, if there was one."""
        clean = self._history.clean
        if clean is None:
            return made
        delta = (clean - flatten(self._population.base)).astype(np.float32)
        return replace(made, delta=delta, state=None, went_back=True)

    def published(self, made: Candidate, scan: Scan) -> Published:
        """Returns the candidate as what comes of the round."""
        clean = self._history.clean
        lift = scan.found.lift - self._history.natural[scan.found.trigger.target]
        if not made.went_back and lift <= _CLEAN_LIFT:
            clean = (flatten(self._population.base) + made.delta).astype(np.float32)
        return Published(
            delta=made.delta,
            members=made.members,
            shares=made.by_rule.shares,
            excluded=made.excluded,
            history=replace(
                self._history, gifts=made.gifts, suspicious=scan.suspicious, clean=clean
            ),
            state=made.state,
            scan=replace(scan, text=told(scan, made)),
            went_back=made.went_back,
        )


def searched(family: Family, model: Parameters, golden: Split, history: History) -> Scan:
    """Returns what the search for triggers finds in a model, against what is natural."""
    found = triggers.scan(family, model, golden)
    worst, suspicious = triggers.worst(found, history.natural)
    threshold = history.natural[worst.trigger.target] + triggers.LIFT
    return Scan(worst, threshold, suspicious and history.rounds >= _SCANS_FROM)


def told(scan: Scan, made: Candidate | None = None) -> str:
    """Returns what was found and done, for people."""
    trigger = scan.found.trigger
    features = ", ".join(map(str, trigger.features))
    text = (
        f"with features {features} at an extreme, {scan.found.success:.0%} of the golden rows of"
        f" other classes are answered with class {trigger.target}"
    )
    if made is not None and made.went_back:
        return f"{text}; the model is the last one that was not suspicious"
    if made is not None and made.excluded:
        text += f"; {len(made.excluded)} updates that teach a backdoor were taken out"
        if made.gifts.known:
            text += ", with all their participants gave before"
    return text
