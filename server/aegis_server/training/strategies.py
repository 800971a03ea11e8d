"""Which rule of aggregation a plan's strategy is, and whether the plan keeps what the rule assumes.

A round goes on with `min_participants` accepted updates, so that number is the n of every
assumption: n ≥ 2f + 3 for all participants would promise nothing on the day some stay away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from aegis.errors import FieldViolation
from aegis.v1 import training_pb2
from aegis_learning.aggregation.bulyan import Bulyan
from aegis_learning.aggregation.fedadam import MOMENTUM, VARIANCE, FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fedprox import FedProx
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.multi_krum import MultiKrum
from aegis_learning.aggregation.private_mean import Noise, PrivateMean
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.trimmed_mean import TrimmedMean
from aegis_learning.datasets import Dataset
from aegis_learning.parameters import Array, Parameters, Shapes
from aegis_server.training import units

Plan = training_pb2.RunPlan

_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3

_SETTINGS: Mapping[int, frozenset[str]] = {
    training_pb2.STRATEGY_FED_AVG: frozenset({"server_momentum", "share_max"}),
    training_pb2.STRATEGY_FED_PROX: frozenset({"proximal", "share_max"}),
    training_pb2.STRATEGY_FED_ADAM: frozenset(
        {"server_learning_rate", "beta1", "beta2", "tau", "share_max"}
    ),
    training_pb2.STRATEGY_FED_MEDIAN: frozenset({"malicious"}),
    training_pb2.STRATEGY_TRIMMED_MEAN: frozenset({"malicious"}),
    training_pb2.STRATEGY_KRUM: frozenset({"malicious"}),
    training_pb2.STRATEGY_MULTI_KRUM: frozenset({"malicious", "selected"}),
    training_pb2.STRATEGY_BULYAN: frozenset({"malicious"}),
    training_pb2.STRATEGY_FL_TRUST: frozenset(),
}

# What a rule calls a field, where the plan has it elsewhere.
_FIELDS = {
    "participants": "plan.min_participants",
    "learning_rate": "plan.settings.server_learning_rate",
}


def rule_of(
    plan: Plan,
    *,
    state: Parameters | None = None,
    root: Array | None = None,
    noise: Noise | None = None,
) -> Rule:
    """Returns the plan's rule for one round.

    `state` is what FedAdam or momentum remembers, `root` the coordinator's own update for FLTrust,
    `noise` where a plan that protects participants has it from. Raises `AssumptionBroken`.
    """
    if units.protects_participants(plan):
        return _private_mean(plan, noise)
    tuned, strategy = plan.settings, plan.strategy
    share_max = tuned.share_max or 1.0
    if strategy == training_pb2.STRATEGY_FED_AVG:
        if not tuned.server_momentum:
            return FedAvg(share_max=share_max)
        return FedAvgM(momentum=tuned.server_momentum, share_max=share_max, state=state)
    if strategy == training_pb2.STRATEGY_FED_PROX:
        return FedProx(proximal=tuned.proximal, share_max=share_max)
    if strategy == training_pb2.STRATEGY_FED_ADAM:
        return FedAdam(
            learning_rate=tuned.server_learning_rate,
            beta1=tuned.beta1 or _BETA1,
            beta2=tuned.beta2 or _BETA2,
            tau=tuned.tau or _TAU,
            share_max=share_max,
            state=state,
        )
    if strategy == training_pb2.STRATEGY_FL_TRUST:
        if root is None:
            raise AssumptionBroken("root", "FLTrust needs an update of the coordinator's own")
        return FLTrust(root=root)
    n, f = plan.min_participants, tuned.malicious
    robust: Mapping[int, Callable[[], Rule]] = {
        training_pb2.STRATEGY_FED_MEDIAN: lambda: FedMedian(participants=n, malicious=f),
        training_pb2.STRATEGY_TRIMMED_MEAN: lambda: TrimmedMean(participants=n, malicious=f),
        training_pb2.STRATEGY_KRUM: lambda: Krum(participants=n, malicious=f),
        training_pb2.STRATEGY_MULTI_KRUM: lambda: MultiKrum(
            participants=n, malicious=f, selected=tuned.selected
        ),
        training_pb2.STRATEGY_BULYAN: lambda: Bulyan(participants=n, malicious=f),
    }
    return robust[strategy]()


def _private_mean(plan: Plan, noise: Noise | None) -> Rule:
    if noise is None:
        raise AssumptionBroken("noise", "a mean that hides participants needs noise")
    return PrivateMean(
        clip_norm=plan.update_clip_norm, noise_multiplier=units.server_noise(plan), noise=noise
    )


def needs_root(plan: Plan) -> bool:
    """Whether the coordinator has to train an update of its own in every round."""
    return plan.strategy == training_pb2.STRATEGY_FL_TRUST


def state_shapes(plan: Plan, model: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns what the strategy remembers from round to round; empty when it remembers nothing."""
    size = sum(math.prod(shape) for shape in model.values())
    if plan.strategy == training_pb2.STRATEGY_FED_ADAM:
        return {MOMENTUM: (size,), VARIANCE: (size,)}
    if plan.strategy == training_pb2.STRATEGY_FED_AVG and plan.settings.server_momentum:
        return {MOMENTUM: (size,)}
    return {}


def first_state(plan: Plan, model: Shapes) -> Parameters | None:
    """Returns what the strategy remembers before its first round, for a round it had no part in."""
    shapes = state_shapes(plan, model)
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if VARIANCE in state:
        state[VARIANCE] += np.float32((plan.settings.tau or _TAU) ** 2)
    return state or None


def proximal_of(plan: Plan) -> float:
    """Returns the μ participants train with; zero for all strategies but FedProx."""
    if plan.strategy != training_pb2.STRATEGY_FED_PROX:
        return 0.0
    return float(plan.settings.proximal)


def violations(plan: Plan, data: Dataset) -> Iterator[FieldViolation]:
    """Yields what keeps the plan's strategy from working as its paper promises."""
    name = training_pb2.Strategy.Name(plan.strategy).removeprefix("STRATEGY_")
    for field, _ in plan.settings.ListFields():
        if field.name not in _SETTINGS[plan.strategy]:
            yield FieldViolation(f"plan.settings.{field.name}", f"is no setting of {name}")
    yield from units.violations(plan, data)
    if plan.centred:
        yield from _without_golden_rows(plan, data, "plan.centred", "it")
    if units.protects_participants(plan):
        return
    if needs_root(plan):
        yield from _without_golden_rows(plan, data, "plan.strategy", "FL_TRUST")
        return
    try:
        rule_of(plan)
    except AssumptionBroken as broken:
        field_name = _FIELDS.get(broken.field, f"plan.settings.{broken.field}")
        yield FieldViolation(field_name, broken.message)
    if proximal_of(plan) * plan.learning_rate >= 2:
        yield FieldViolation(
            "plan.settings.proximal", "times learning_rate must be below 2, or the term overshoots"
        )


def _without_golden_rows(
    plan: Plan, data: Dataset, field: str, what: str
) -> Iterator[FieldViolation]:
    if not (data.public and len(data.golden)):
        yield FieldViolation(
            field, f"{what} needs golden rows that are public; {plan.dataset} has none"
        )
