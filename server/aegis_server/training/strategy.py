"""Aggregation behind a gate: only updates the review has accepted become the model.

A Flower strategy like any other: `configure_train` is FedAvg's, `aggregate_train` looks at every
answer before the plan's rule may see it. Nothing an answer can contain fails the run; it fails its
sender.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

import grpc
import numpy as np

from aegis.errors import AegisError, InvalidArgument, ResourceExhausted, from_rpc_error
from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2
from aegis_learning import npy, parameters
from aegis_learning.aggregation.refusals import AggregationRefused, Overflow
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Parameters, Shapes
from aegis_server.training.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    FedAvg,
    Grid,
    Message,
    MetricRecord,
)
from aegis_server.training.sites import Site

Outcome = training_pb2.ParticipantRound
Update = review_pb2.Update

_CHUNK = 64 * 1024
_NPY_HEADER = 1024
_SUBMIT_SECONDS = 30.0
_REVIEW_SECONDS = 300.0


class Gate(Protocol):
    """Judges the updates of one round together."""

    def judge(self, number: int, updates: Mapping[str, bytes]) -> Mapping[str, Update | AegisError]:
        """Returns, for each participant, the judged update or why it was refused."""


class ReviewGate:
    """The review room, asked through its stub.

    Its calls run on the event loop the stub belongs to; `judge` is called from another thread.
    `attempt` is part of every update's name, because a repeated round has other updates.
    """

    def __init__(
        self,
        stub: review_pb2_grpc.ReviewServiceStub,
        loop: asyncio.AbstractEventLoop,
        *,
        run_id: str,
    ) -> None:
        self._stub = stub
        self._loop = loop
        self._run_id = run_id
        self.attempt = 1

    def judge(self, number: int, updates: Mapping[str, bytes]) -> Mapping[str, Update | AegisError]:
        """Submits every update, then asks for the verdicts; raises `AegisError`."""
        return asyncio.run_coroutine_threadsafe(self._judge(number, updates), self._loop).result()

    async def _judge(
        self, number: int, updates: Mapping[str, bytes]
    ) -> Mapping[str, Update | AegisError]:
        verdicts: dict[str, Update | AegisError] = {}
        for participant, update in updates.items():
            try:
                response = await self._stub.SubmitUpdate(
                    self._parts(number, participant, update), timeout=_SUBMIT_SECONDS
                )
                verdicts[participant] = response.update
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if not isinstance(refusal, InvalidArgument | ResourceExhausted):
                    raise refusal from error
                verdicts[participant] = refusal
        if not any(isinstance(verdict, Update) for verdict in verdicts.values()):
            return verdicts
        try:
            judged = await self._stub.ReviewRound(
                review_pb2.ReviewRoundRequest(
                    run_id=self._run_id, round=number, attempt=self.attempt
                ),
                timeout=_REVIEW_SECONDS,
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return verdicts | {update.participant: update for update in judged.updates}

    async def _parts(
        self, number: int, participant: str, update: bytes
    ) -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        header = review_pb2.SubmitUpdateRequest.Header(
            run_id=self._run_id,
            round=number,
            attempt=self.attempt,
            participant=participant,
            sha256=parameters.digest(update),
            size_bytes=len(update),
        )
        yield review_pb2.SubmitUpdateRequest(header=header)
        for start in range(0, len(update), _CHUNK):
            yield review_pb2.SubmitUpdateRequest(chunk=update[start : start + _CHUNK])


class ReviewedStrategy(FedAvg):
    """A rule over accepted updates, weighted by enrolled examples where the rule weighs.

    Answers carry updates (differences); the aggregate is the next model. Without a gate every
    update that is one counts as accepted. `outcomes` says what became of each participant of the
    round that was aggregated last, `state` what the rule wants to be given in the next.
    """

    def __init__(
        self, sites: Iterable[Site], shapes: Shapes, gate: Gate | None, rule: Rule
    ) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self._sites = {site.node_id: site for site in sites}
        self._shapes = shapes
        self._gate = gate
        self._rule = rule
        self._base: Parameters = {}
        self.state: Parameters | None = None
        self.outcomes: dict[str, Outcome] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Returns the round's messages; everybody asked is missing until they answer."""
        self._base = parameters.check(
            {name: npy.read(array.data) for name, array in arrays.items()}, self._shapes
        )
        messages = list(super().configure_train(server_round, arrays, config, grid))
        asked = sorted(message.metadata.dst_node_id for message in messages)
        self.outcomes = {
            self._sites[node_id].name: Outcome(
                participant=self._sites[node_id].name,
                examples=self._sites[node_id].examples,
                outcome=Outcome.OUTCOME_MISSING,
                reason="no answer before the deadline",
            )
            for node_id in asked
        }
        return messages

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
        accepted = self._accept(server_round, updates)
        model = self._aggregate({name: updates[name] for name in sorted(accepted)})
        if model is None:
            return None, None
        return to_arrays(model), MetricRecord({"accepted": len(accepted)})

    def _aggregate(self, accepted: Mapping[str, Parameters]) -> Parameters | None:
        if not accepted:
            return None
        # The weight must be ours: a site could claim a billion examples.
        examples = [self.outcomes[name].examples for name in accepted]
        try:
            made = self._rule.aggregate(Updates.named(list(accepted.values()), examples))
            with np.errstate(over="ignore", invalid="ignore"):
                delta = parameters.unflatten(made.update, self._shapes)
                model = parameters.add(self._base, delta)
            parameters.require_finite(model)
        except (Overflow, parameters.NotFiniteError) as error:
            # Each update was finite, the model with them is not; a review would not get this far.
            self._mark(accepted, Outcome.OUTCOME_FAILED, f"the updates overflow the model: {error}")
            return None
        except AggregationRefused as refused:
            self._mark(accepted, Outcome.OUTCOME_LEFT_OUT, f"no aggregate: {refused}")
            return None
        self.state = made.state
        unused = [n for n, share in zip(accepted, made.shares, strict=False) if not share]
        self._mark(unused, Outcome.OUTCOME_LEFT_OUT, "the strategy gave it no part in the model")
        return model

    def _mark(self, names: Iterable[str], outcome: Outcome.Outcome.ValueType, why: str) -> None:
        for name in names:
            self.outcomes[name].outcome = outcome
            self.outcomes[name].reason = why[:200]

    def _take_in(self, reply: Message, outcome: Outcome) -> Parameters | None:
        outcome.outcome = Outcome.OUTCOME_FAILED
        if reply.has_error():
            outcome.reason = f"its training failed: {reply.error.reason}"[:200]
            return None
        try:
            update = _update_in(reply, self._shapes)
        except (parameters.ShapeError, parameters.NotFiniteError) as error:
            outcome.reason = f"not an update of this model: {error}"[:200]
            return None
        except Exception as error:
            # Deserialising foreign bytes may raise anything; it must not fail the others.
            outcome.reason = f"not an update of this model: {type(error).__name__}"
            return None
        outcome.reason = ""
        outcome.loss = _claimed(reply, "loss")
        outcome.accuracy = _claimed(reply, "accuracy")
        return update

    def _accept(self, server_round: int, updates: Mapping[str, Parameters]) -> set[str]:
        if self._gate is None:
            for name in updates:
                self.outcomes[name].outcome = Outcome.OUTCOME_AGGREGATED
            return set(updates)
        encoded = {name: parameters.encode(update) for name, update in updates.items()}
        verdicts = self._gate.judge(server_round, encoded) if encoded else {}
        for name in updates:
            _note(self.outcomes[name], verdicts.get(name))
        return {
            name for name in updates if self.outcomes[name].outcome == Outcome.OUTCOME_AGGREGATED
        }


def _update_in(reply: Message, shapes: Shapes) -> Parameters:
    (arrays,) = reply.content.array_records.values()
    for name, array in arrays.items():
        # Before anything is unpacked: a few more bytes than the numbers are the .npy header.
        if len(array.data) > 4 * math.prod(shapes.get(name, ())) + _NPY_HEADER:
            raise parameters.ShapeError(name[:64], "is larger than the model's")
    return parameters.check({name: npy.read(array.data) for name, array in arrays.items()}, shapes)


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
        worst = max(verdict.findings, key=lambda finding: finding.severity)
        outcome.reason = worst.text[:200]


def _claimed(reply: Message, metric: str) -> float:
    for record in reply.content.metric_records.values():
        value = record.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return 0.0


def to_arrays(params: Parameters) -> ArrayRecord:
    """Returns parameters as Flower carries them."""
    return ArrayRecord({name: Array(values) for name, values in params.items()})
