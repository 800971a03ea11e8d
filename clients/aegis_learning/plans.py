"""The plan that is known to work on the data set that ships: the defaults of CLI and demo.

Measured with seeds 0 to 9: test accuracy 0.956 on average and 0.930 at least, at epsilon 8.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanDefaults:
    """Values for the fields of `aegis.v1.RunPlan` with the same names."""

    dataset: str = "breast-cancer"
    model: str = "mlp"
    rounds: int = 15
    participants: int = 5
    local_steps: int = 4
    learning_rate: float = 1.0
    sample_rate: float = 0.3
    clip_norm: float = 1.0
    target_epsilon: float = 8.0
    delta: float = 1e-3
    dirichlet_alpha: float = 1.0
    min_participants: int = 3
    round_deadline_seconds: float = 60.0


DEFAULTS = PlanDefaults()

# How many updates a strategy needs in a round: so many for each participant that may be malicious,
# and so many more. Those that are not here need one.
UPDATES_NEEDED = {
    "fed-median": (2, 1),
    "trimmed-mean": (2, 1),
    "krum": (2, 3),
    "multi-krum": (2, 3),
    "bulyan": (4, 3),
}

# What a strategy cannot do without, where the command line does not say it.
PROXIMAL = 0.1
SERVER_LEARNING_RATE = 0.1

# How hard each attack has to hit to ruin an unreviewed run of five, by name of the attack.
ATTACK_SCALES = {"sign-flip": 10.0, "label-flip": 10.0, "noise": 50.0, "scale": 100.0}
