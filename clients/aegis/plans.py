"""Run plans as messages: the defaults that were measured, and attacks by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from aegis.v1 import training_pb2
from aegis_learning.plans import (
    ATTACK_SCALES,
    DEFAULTS,
    PROXIMAL,
    SERVER_LEARNING_RATE,
    UPDATES_NEEDED,
    defaults_for,
)

ATTACKS = tuple(ATTACK_SCALES)
STRATEGIES = tuple(
    name.removeprefix("STRATEGY_").lower().replace("_", "-")
    for name in training_pb2.Strategy.keys()[1:]
)
SITES = ("embedded", "enrolled", "flower")
PRIVACY_UNITS = ("record", "participant")


@dataclass(frozen=True, slots=True)
class Attacker:
    """Which attack the last site makes, and how hard; scale None means the kind's default.

    Raises ValueError for an unknown kind.
    """

    kind: str
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ATTACK_SCALES:
            raise ValueError(f"there is no attack {self.kind!r}")

    def message(self, participant: str) -> training_pb2.Attack:
        """Returns the plan's form."""
        name = "ATTACK_KIND_" + self.kind.replace("-", "_").upper()
        return training_pb2.Attack(
            participant=participant,
            kind=training_pb2.AttackKind.Value(name),
            scale=ATTACK_SCALES[self.kind] if self.scale is None else self.scale,
        )


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy by name, and how it is tuned; what it needs and is not said has a default.

    Raises ValueError for an unknown name.
    """

    name: str = "fed-avg"
    malicious: int = 0
    selected: int = 0
    proximal: float = 0.0
    server_learning_rate: float = 0.0
    share_max: float = 0.0
    server_momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in STRATEGIES:
            raise ValueError(f"there is no strategy {self.name!r}")

    @property
    def value(self) -> training_pb2.Strategy.ValueType:
        """The plan's form of the name."""
        return training_pb2.Strategy.Value("STRATEGY_" + self.name.upper().replace("-", "_"))

    @property
    def updates_needed(self) -> int:
        """How many updates a round has to have for it."""
        each, more = UPDATES_NEEDED.get(self.name, (0, 1))
        return max(each * self.malicious + more, self.selected + self.malicious)

    @property
    def settings(self) -> training_pb2.StrategySettings:
        """The plan's form of how it is tuned."""
        proximal = PROXIMAL if self.name == "fed-prox" else 0.0
        rate = SERVER_LEARNING_RATE if self.name == "fed-adam" else 0.0
        return training_pb2.StrategySettings(
            malicious=self.malicious,
            selected=self.selected,
            proximal=self.proximal or proximal,
            server_learning_rate=self.server_learning_rate or rate,
            share_max=self.share_max,
            server_momentum=self.server_momentum,
        )


FED_AVG = Strategy()


def default_plan(
    *,
    seed: int = 0,
    review: bool = True,
    attacker: Attacker | None = None,
    participants: int = DEFAULTS.participants,
    strategy: Strategy = FED_AVG,
    model: str | None = None,
    epsilon: float | None = None,
) -> training_pb2.RunPlan:
    """Returns a simulated run on the data that ships: five sites, DP-SGD, a non-IID split.

    With a model or an epsilon it is the plan that was measured to learn most from that, as far as
    the strategy lets it; without either that of the demo. With an attacker, the last site is it.
    """
    defaults = DEFAULTS
    if model is not None or epsilon is not None:
        defaults = replace(
            DEFAULTS,
            model=model or DEFAULTS.model,
            target_epsilon=DEFAULTS.target_epsilon if epsilon is None else epsilon,
        )
        if strategy.name == "fed-avg":
            defaults = defaults_for(defaults.model, defaults.target_epsilon)
            momentum = strategy.server_momentum or defaults.server_momentum
            strategy = replace(strategy, server_momentum=momentum)
    values = asdict(defaults)
    deadline = values.pop("round_deadline_seconds")
    del values["server_momentum"]
    # One may be rejected, but a round of a single site would be that site's model.
    least = max(2, min(DEFAULTS.min_participants, participants - 1))
    plan = training_pb2.RunPlan(
        strategy=strategy.value,
        seed=seed,
        review=review,
        simulation=True,
        **values
        | {
            "participants": participants,
            # More than there are would be another refusal than the strategy's own.
            "min_participants": min(participants, max(least, strategy.updates_needed)),
        },
    )
    # A plan without settings keeps the bytes it had before there were any.
    if strategy.settings.ByteSize():
        plan.settings.CopyFrom(strategy.settings)
    plan.round_deadline.FromNanoseconds(int(deadline * 1e9))
    if attacker is not None:
        plan.attacks.append(attacker.message(f"site-{plan.participants}"))
    return plan
