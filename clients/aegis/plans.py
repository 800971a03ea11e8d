"""Run plans as messages: the defaults that were measured, and attacks by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from aegis.v1 import training_pb2
from aegis_learning.plans import ATTACK_SCALES, DEFAULTS

ATTACKS = tuple(ATTACK_SCALES)


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


def default_plan(
    *,
    seed: int = 0,
    review: bool = True,
    attacker: Attacker | None = None,
    participants: int = DEFAULTS.participants,
) -> training_pb2.RunPlan:
    """Returns a simulated run on the data that ships: five sites, DP-SGD, a non-IID split.

    With an attacker, the last site is it.
    """
    values = asdict(DEFAULTS)
    deadline = values.pop("round_deadline_seconds")
    plan = training_pb2.RunPlan(
        strategy=training_pb2.STRATEGY_FED_AVG,
        seed=seed,
        review=review,
        simulation=True,
        **values
        | {
            "participants": participants,
            # One may be rejected, but a round of a single site would be that site's model.
            "min_participants": max(2, min(DEFAULTS.min_participants, participants - 1)),
        },
    )
    plan.round_deadline.FromNanoseconds(int(deadline * 1e9))
    if attacker is not None:
        plan.attacks.append(attacker.message(f"site-{plan.participants}"))
    return plan
