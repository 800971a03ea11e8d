"""From accepted updates to the next model, without those that teach it a backdoor.

The review judges an update by its round. A backdoor that is not boosted is a little in every round,
so what makes the next model remembers the run:

* what each participant's updates did to triggers so far (`pushes`): noise averages out, and
  attackers persist. A trigger that sets the same group apart in two rounds is believed if the model
  without that group obeys it much less. Who pushes a believed trigger has no part in the model;
* what each participant has given to the model so far (`giving`), while it is a weighted mean of
  updates, with momentum or without. Whoever is taken out takes that along, and the model is what
  the others would have made of it. So to find out late costs nothing;
* what a search for triggers finds in the models (`triggers`). A candidate that is suspicious still
  is marked; and when the one before was as well, nothing can be taken out of it and somebody was
  excluded, the run goes back to the last model that was not.

Everything is plain values: the same calls give the same models.
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
from aegis_server.review.giving import Gifts
from aegis_server.review.history import History as History
from aegis_server.review.history import Published as Published
from aegis_server.review.history import Scan
from aegis_server.review.population import Population
from aegis_server.review.pushes import Push, Vector
from aegis_server.review.triggers import Trigger

Combine = Callable[[Sequence[int]], Aggregate]

# Before this round the sums are of too few rounds, and models are not yet what they will be.
_GROUPS_FROM, _SCANS_FROM = 3, 5
# A group has to be that far apart. Sums of honest rounds get there as well: a few sites may have
# most of a class.
_SEPARATION = 3.0
# Share of golden rows that obey the trigger no more once the group is out. No group of 84 honest
# runs of the lab came there. Where a trigger works by itself as well (two classes) only a part of
# it may tell; so many parts to choose from need a group that is farther apart.
_DROP = 0.2
_SEPARATION_OF_PARTS = 6.0
# Where it cannot be known what the model would be without the group: separation alone, and under
# privacy noise, whose tails are those of a normal.
_SEPARATION_ALONE, _SEPARATION_NOISY = 12.0, 4.5
# Deviations by which one pushes a trigger that is believed already.
_PUSHES, _PUSHES_NOISY = 3.0, 2.0
_OVERLAP = 0.5
# A model is one to go back to when no trigger is that far above what is natural.
_CLEAN_LIFT = triggers.LIFT / 2


def publish(
    population: Population,
    accepted: Sequence[int],
    combine: Combine,
    history: History,
    *,
    least: int = 1,
) -> Published:
    """Returns the next model's update; `combine` makes it of the updates at some places.

    `combine` is asked again for other places when somebody may have to be taken out; at least
    `least` updates stay. Raises what it raises.
    """
    if not len(population.golden):
        plain = combine(accepted)
        return Published(plain.update, tuple(accepted), plain.shares, (), history, plain.state)
    history = _begun(history, population.family, population.golden)
    history = replace(history, gifts=history.gifts or Gifts.none(population, history.momentum))
    round_ = _Round(population, tuple(accepted), combine, least, history)
    made = round_.judged(round_.made(round_.pushers(history.believed)))
    scan = round_.scanned(made)
    if scan.suspicious:
        found = scan.found.trigger
        better = round_.without(made, [found], round_.pushers([found]), alone=True)
        if better is not None:
            made, scan = better, round_.scanned(better)
    if scan.suspicious and history.suspicious and made.excluded and not made.gifts.known:
        made = round_.back(made)
        scan = round_.scanned(made)
    return round_.published(made, scan)


def looked(
    family: Family, model: Parameters, golden: Split, history: History
) -> tuple[History, Scan]:
    """Returns what the search finds in a round's model that was made another way."""
    history = _begun(history, family, golden)
    scan = _search(family, model, golden, history)
    return replace(history, suspicious=scan.suspicious), replace(scan, text=_told(scan))


def _begun(history: History, family: Family, golden: Split) -> History:
    natural = history.natural or triggers.natural(family, golden)
    return replace(history, rounds=history.rounds + 1, natural=natural)


def _search(family: Family, model: Parameters, golden: Split, history: History) -> Scan:
    found = triggers.scan(family, model, golden)
    worst, suspicious = triggers.worst(found, history.natural)
    threshold = history.natural[worst.trigger.target] + triggers.LIFT
    return Scan(worst, threshold, suspicious and history.rounds >= _SCANS_FROM)


@dataclass(frozen=True, slots=True)
class _Made:
    """A candidate: what leads to it, and without whom."""

    delta: Array
    by_rule: Aggregate
    members: tuple[int, ...]
    excluded: tuple[int, ...]
    gifts: Gifts
    state: Parameters | None
    went_back: bool = False


class _Round:
    """A round on its way to a model; `history` grows with what is found."""

    def __init__(
        self,
        population: Population,
        accepted: tuple[int, ...],
        combine: Combine,
        least: int,
        history: History,
    ) -> None:
        self._population = population
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

    def made(self, bad: frozenset[int]) -> _Made:
        """Returns the candidate without these, and without what they gave; raises as `combine`."""
        before = self._history.gifts
        assert before is not None  # noqa: S101  # `publish` has begun them
        kept = tuple(i for i in self._accepted if i not in bad)
        if len(kept) < self._least:
            kept, bad = self._accepted, frozenset()
        made = self._combine(kept)
        lost = before.without({self._names[i] for i in bad})
        gifts = lost.gifts.and_of(
            {self._names[i]: self._population.matrix[i] for i in kept}, made, before
        )
        delta, state = made.update, made.state
        if lost.model is not None:
            delta = (delta + lost.model).astype(np.float32)
        if lost.velocity is not None and state is not None:
            state = {MOMENTUM: (state[MOMENTUM] + lost.velocity).astype(np.float32)}
        excluded = tuple(i for i in self._accepted if i in bad)
        return _Made(delta, made, kept, excluded, gifts, state)

    def judged(self, made: _Made) -> _Made:
        """Returns the candidate without the group of this and the last round, if it is one."""
        push = self._apart()
        group = frozenset(self._names[i] for i in push.group) if push else frozenset()
        before, self._history = self._history.group, replace(self._history, group=group)
        again = len(group & before) >= _OVERLAP * len(group | before)
        if push is None or not before or not again:
            return made
        alone = push.separation >= (_SEPARATION_NOISY if self._noisy else _SEPARATION_ALONE)
        parts = [push.trigger]
        if push.separation >= _SEPARATION_OF_PARTS:
            parts += [push.trigger.part(size) for size in range(1, len(push.trigger.features))]
        return self.without(made, parts, frozenset(push.group), alone=alone) or made

    def _apart(self) -> Push | None:
        if self._tables is None or self._history.rounds < _GROUPS_FROM:
            return None
        push = pushes.strongest(self._tables, self._population.weights, self._bounds)
        return push if push.separation >= _SEPARATION else None

    def without(
        self, made: _Made, parts: Sequence[Trigger], group: frozenset[int], *, alone: bool
    ) -> _Made | None:
        """Returns the candidate without a group as well, if it is the group that makes a trigger
        work, or one of its `parts`; None if not. `alone` says what holds where nobody can know.
        """
        bad = frozenset(made.excluded) | group | self.pushers(parts[:1])
        better = self.made(bad)
        if np.array_equal(better.delta, made.delta):
            return None
        drop = max(self._obeying(made, part) - self._obeying(better, part) for part in parts)
        if drop < _DROP and (made.gifts.known or not alone):
            return None
        self._history = self._history.believing(parts[0])
        return better

    def _obeying(self, made: _Made, trigger: Trigger) -> float:
        model = self._population.moved(made.delta)
        return triggers.success(self._population.family, model, self._population.golden, trigger)

    def scanned(self, made: _Made) -> Scan:
        """Returns what the search finds in a candidate."""
        model = self._population.moved(made.delta)
        return _search(self._population.family, model, self._population.golden, self._history)

    def back(self, made: _Made) -> _Made:
        """Returns the way to the last model that was clean, if there was one."""
        clean = self._history.clean
        if clean is None:
            return made
        delta = (clean - flatten(self._population.base)).astype(np.float32)
        return replace(made, delta=delta, state=None, went_back=True)

    def published(self, made: _Made, scan: Scan) -> Published:
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
            scan=replace(scan, text=_told(scan, made)),
            went_back=made.went_back,
        )


def _told(scan: Scan, made: _Made | None = None) -> str:
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
