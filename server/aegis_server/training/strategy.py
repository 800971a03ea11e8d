"""Aggregation behind a gate: only updates the review has accepted become the model.

A Flower strategy like any other: `configure_train` is FedAvg's, `aggregate_train` looks at every
answer before the plan's rule may see it. Nothing an answer can contain fails the run; it fails its
sender.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aegis.errors import AegisError
from aegis.v1 import review_pb2, training_pb2
from aegis_learning import npy, parameters
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.private_mean import PrivateMean
from aegis_learning.aggregation.refusals import AggregationRefused, Overflow
from aegis_learning.aggregation.rule import Aggregate, Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array as Numbers
from aegis_learning.parameters import Parameters, Shapes
from aegis_server.training.flower import (
    SITE_GAVE_UP,
    SITE_REFUSED,
    Array,
    ArrayRecord,
    ConfigRecord,
    FedAvg,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from aegis_server.training.publisher import Publisher, message
from aegis_server.training.words import failure_of, one_line

Outcome = training_pb2.ParticipantRound
Update = review_pb2.Update

_NPY_HEADER = 1024
_INT32_MAX = 2**31 - 1


class Site(Protocol):
    """A participant as it was settled: `examples` is our count, never its claim."""

    @property
    def name(self) -> str:
        """As plans name it."""

    @property
    def node_id(self) -> int:
        """As Flower names it."""

    @property
    def examples(self) -> int:
        """Rows it was settled with."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate says of a round, by participant.

    `verdicts` are judged updates, or why one was refused; `outside` the bytes of accepted updates
    that reached the review another way and count instead of an answer. With a `fallback` nobody can
    tell who the odd ones are: the median of those participants' updates may be the model, `why` is
    the reason.
    """

    verdicts: Mapping[str, Update | AegisError]
    outside: Mapping[str, bytes] = field(default_factory=dict)
    fallback: tuple[str, ...] = ()
    why: str = ""


class Gate(Protocol):
    """Judges the updates of one round together; `attempt` names the try they belong to."""

    attempt: int

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        """Returns what became of them, and of those that came another way.

        Those of others than were `asked` have no say; without any, everybody was.
        """


class ReviewedStrategy(FedAvg):
    """A rule over accepted updates, weighted by enrolled examples where the rule weighs.

    Answers carry updates (differences); the aggregate is the next model. Without a gate every
    update that is one counts as accepted. `outcomes` says what became of each participant of the
    round that was aggregated last, `state` what the rule wants to be given in the next, `fallback`
    why the model is a median of updates of which nobody knew the odd ones, if it is. A `publisher`
    keeps backdoors out: `scan` is what it found, and with `forgets` the rule has to begin anew.

    Raises ValueError for a gate before `PrivateMean`: a verdict depends on everybody's update, so
    its noise would hide nobody.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        shapes: Shapes,
        gate: Gate | None,
        rule: Rule,
        publisher: Publisher | None = None,
    ) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        if gate is not None and isinstance(rule, PrivateMean):
            raise ValueError("no review where noise is to hide whole participants")
        self._sites = {site.node_id: site for site in sites}
        self._shapes = shapes
        self._gate = gate
        self._rule = rule
        self._publisher = publisher
        self._base: Parameters = {}
        self.state: Parameters | None = None
        self.forgets = False
        self.fallback = ""
        self.scan: training_pb2.TriggerScan | None = None
        self.outcomes: dict[str, Outcome] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Returns messages to all nodes of the grid."""
        return self.messages(server_round, arrays, config, grid.get_node_ids())

    def messages(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, nodes: Iterable[int]
    ) -> list[Message]:
        """Returns messages to these nodes; who is asked is missing until the answer is there.

        May be called again in the same round, to ask others or once more.
        """
        self._base = parameters.check(
            {name: npy.read(array.data) for name, array in arrays.items()}, self._shapes
        )
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        asked = sorted(nodes)
        for node_id in asked:
            site = self._sites[node_id]
            self.outcomes[site.name] = Outcome(
                participant=site.name,
                examples=min(site.examples, _INT32_MAX),
                outcome=Outcome.OUTCOME_MISSING,
                reason="no answer before the deadline",
            )
        return [
            Message(content=record, dst_node_id=node_id, message_type=MessageType.TRAIN)
            for node_id in asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Returns the next model, or None when the rule can make none of what was accepted.

        Raises `AegisError` when the review cannot be reached.
        """
        updates: dict[str, Parameters] = {}
        for reply in replies:
            site = self._sites[reply.metadata.src_node_id]
            update = self._take_in(reply, self.outcomes[site.name])
            if update is not None:
                updates[site.name] = update
        judged = self._judged(server_round, updates)
        if judged.fallback:
            model = self._median(judged, updates)
            accepted = {name: updates[name] for name in judged.fallback if name in updates}
        else:
            accepted = {
                name: updates[name]
                for name in sorted(updates)
                if self.outcomes[name].outcome == Outcome.OUTCOME_AGGREGATED
            }
            model = (
                self._aggregate(accepted, self._rule)
                if self._publisher is None
                else self._published(updates, accepted, self._publisher)
            )
        if model is None:
            return None, None
        return to_arrays(model), MetricRecord({"accepted": len(accepted)})

    def _median(self, judged: Judged, updates: Mapping[str, Parameters]) -> Parameters | None:
        members = {name: updates[name] for name in sorted(judged.fallback) if name in updates}
        others = [
            name
            for name, outcome in self.outcomes.items()
            if outcome.outcome == Outcome.OUTCOME_AGGREGATED and name not in members
        ]
        self._mark(others, Outcome.OUTCOME_LEFT_OUT, "the model is the median of others")
        self._mark(members, Outcome.OUTCOME_AGGREGATED, "one of those the model is the median of")
        kept = self.state
        model = self._aggregate(members, FedMedian(participants=1))
        # What the plan's rule remembers is not about medians.
        self.state = kept
        if model is not None:
            self.fallback = judged.why or "the review could not tell who the odd ones are"
            scan = self._publisher.looked(model) if self._publisher else None
            self.scan = message(scan, ()) if scan else None
        return model

    def _aggregate(self, accepted: Mapping[str, Parameters], rule: Rule) -> Parameters | None:
        def by_rule() -> tuple[Numbers, Iterable[str]]:
            made = self._combined(accepted, rule)
            self.state = made.state
            return made.update, _unused(accepted, made.shares)

        return self._model(accepted, by_rule)

    def _published(
        self,
        updates: Mapping[str, Parameters],
        accepted: Mapping[str, Parameters],
        publisher: Publisher,
    ) -> Parameters | None:
        names = sorted(updates)

        def published() -> tuple[Numbers, Iterable[str]]:
            done = publisher.publish(
                self._base,
                {name: updates[name] for name in names},
                list(accepted),
                lambda population, places: self._rule.aggregate(
                    Updates.of(
                        [population.matrix[i] for i in places],
                        [self.outcomes[names[i]].examples for i in places],
                    )
                ),
                least=self._rule.least,
            )
            excluded = [names[i] for i in done.excluded]
            self.state, self.forgets = done.state, done.went_back
            self.scan = message(done.scan, excluded) if done.scan else None
            self._mark(excluded, Outcome.OUTCOME_REJECTED, "it teaches the model a backdoor")
            shortened = [names[i] for i in done.shortened if i in done.members]
            self._mark(shortened, Outcome.OUTCOME_AGGREGATED, "longer than others: shortened")
            members = [names[i] for i in done.members]
            return done.delta, members if done.went_back else _unused(members, done.shares)

        return self._model(accepted, published)

    def _combined(self, updates: Mapping[str, Parameters], rule: Rule) -> Aggregate:
        # The weight must be ours: a site could claim a billion examples.
        examples = [self.outcomes[name].examples for name in updates]
        return rule.aggregate(Updates.named(list(updates.values()), examples))

    def _model(
        self,
        accepted: Mapping[str, Parameters],
        make: Callable[[], tuple[Numbers, Iterable[str]]],
    ) -> Parameters | None:
        """Returns the base and what `make` makes; it also names who has no part in it."""
        if not accepted:
            return None
        try:
            update, unused = make()
            with np.errstate(over="ignore", invalid="ignore"):
                model = parameters.add(self._base, parameters.unflatten(update, self._shapes))
            parameters.require_finite(model)
        except (Overflow, parameters.NotFiniteError) as error:
            # Each update was finite, the model with them is not; a review would not get this far.
            self._mark(accepted, Outcome.OUTCOME_FAILED, f"the updates overflow the model: {error}")
            return None
        except AggregationRefused as refused:
            self._mark(accepted, Outcome.OUTCOME_LEFT_OUT, f"no aggregate: {refused}")
            return None
        self._mark(unused, Outcome.OUTCOME_LEFT_OUT, "the strategy gave it no part in the model")
        return model

    def _mark(self, names: Iterable[str], outcome: Outcome.Outcome.ValueType, why: str) -> None:
        for name in names:
            self.outcomes[name].outcome = outcome
            self.outcomes[name].reason = why[:200]

    def _take_in(self, reply: Message, outcome: Outcome) -> Parameters | None:
        outcome.outcome = Outcome.OUTCOME_FAILED
        if reply.has_error():
            if reply.error.code in (SITE_REFUSED, SITE_GAVE_UP):
                outcome.outcome = Outcome.OUTCOME_REFUSED
                outcome.reason = one_line(f"it refused: {reply.error.reason}")
                return None
            outcome.reason = failure_of(reply.error.code, reply.error.reason or "")
            return None
        try:
            update = _update_in(reply, self._shapes)
        except (parameters.ShapeError, parameters.NotFiniteError) as error:
            outcome.reason = one_line(f"not an update of this model: {error}")
            return None
        except Exception as error:
            # Deserialising foreign bytes may raise anything; it must not fail the others.
            outcome.reason = f"not an update of this model: {type(error).__name__}"
            return None
        outcome.reason = ""
        outcome.loss = _claimed(reply, "loss")
        outcome.accuracy = _claimed(reply, "accuracy")
        outcome.auc = _claimed(reply, "auc")
        return update

    def _judged(self, server_round: int, updates: dict[str, Parameters]) -> Judged:
        """Notes what became of every update, and adds those that came another way to `updates`."""
        if self._gate is None:
            self._mark(updates, Outcome.OUTCOME_AGGREGATED, "")
            return Judged({})
        judged = self._gate.judge(server_round, _Encoded(dict(updates)), tuple(self.outcomes))
        for name, data in judged.outside.items():
            # Who was not drawn does not count, whatever it sends. The review let no other bytes in
            # than those of an update of this model.
            if name in self.outcomes:
                updates[name] = parameters.decode(data, self._shapes)
        # Also of who did not answer and has sent an update another way, accepted or not.
        told = [name for name, each in judged.verdicts.items() if isinstance(each, Update)]
        for name in {*updates, *told} & self.outcomes.keys():
            self.outcomes[name].reason = ""
            _note(self.outcomes[name], judged.verdicts.get(name))
        return judged


class _Encoded(Mapping[str, bytes]):
    """Updates as bytes, made when they are asked for: all at once they would be there twice."""

    def __init__(self, updates: Mapping[str, Parameters]) -> None:
        self._updates = updates

    def __getitem__(self, name: str) -> bytes:
        return parameters.encode(self._updates[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)


def _unused(names: Iterable[str], shares: Iterable[float]) -> list[str]:
    """Returns who has no share; nobody where a rule has none to tell of."""
    return [name for name, share in zip(names, shares, strict=False) if not share]


def _update_in(reply: Message, shapes: Shapes) -> Parameters:
    # Not `array_records`: what that returns refers to itself and would keep the answer in memory.
    (arrays,) = [each for each in reply.content.values() if isinstance(each, ArrayRecord)]
    for name, array in arrays.items():
        # Before anything is unpacked: a few more bytes than the numbers are the .npy header.
        if len(array.data) > 4 * math.prod(shapes.get(name, ())) + _NPY_HEADER:
            raise parameters.ShapeError(name[:64], "is larger than the model's")
    return parameters.check({name: _read(name, each.data) for name, each in arrays.items()}, shapes)


def _read(name: str, data: bytes) -> NDArray[np.generic]:
    try:
        return npy.read(data)
    except ValueError as error:
        raise parameters.ShapeError(name[:64], f"is {error}") from None


def _note(outcome: Outcome, verdict: Update | AegisError | None) -> None:
    if verdict is None or isinstance(verdict, AegisError):
        outcome.outcome = Outcome.OUTCOME_FAILED
        outcome.reason = verdict.message[:200] if verdict else "the review gave no verdict"
        return
    outcome.update_id = verdict.update_id
    # Anything but a clear yes is a no.
    outcome.outcome = {
        Update.VERDICT_ACCEPTED: Outcome.OUTCOME_AGGREGATED,
        Update.VERDICT_REJECTED: Outcome.OUTCOME_REJECTED,
    }.get(verdict.verdict, Outcome.OUTCOME_HELD)
    if outcome.outcome != Outcome.OUTCOME_AGGREGATED and verdict.findings:
        # Participants read this, and a finding's figures would tell them how far they may go.
        worst = max(verdict.findings, key=lambda finding: finding.severity)
        outcome.reason = f"the review's {worst.examiner} spoke against it"[:200]


def _claimed(reply: Message, metric: str) -> float:
    for record in reply.content.values():
        value = record.get(metric) if isinstance(record, MetricRecord) else None
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return 0.0


def to_arrays(params: Parameters) -> ArrayRecord:
    """Returns parameters as Flower carries them."""
    return ArrayRecord({name: Array(values) for name, values in params.items()})
