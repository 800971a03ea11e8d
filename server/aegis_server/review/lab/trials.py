"""Many runs on several processes: what each is, what is kept of it, and in which order they come.

A trial names everything by values, so that it crosses into a worker process, and is its own seed:
every contender meets the same worlds, samples, noise and attackers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.lab.attacks import BY_NAME, PRIVATE_ONLY
from aegis_server.review.lab.simulating import Gate, simulate
from aegis_server.review.lab.worlds import PLANS, World, world
from aegis_server.workers import end_with_parent

NONE = "none"
SPLITS: dict[str, float | None] = {"iid": None, "dirichlet": 0.5}
# Data set, concentration of the Dirichlet distribution, epsilon.
Setting = tuple[str, float | None, float | None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run; `attack` is `NONE` or a name of `attacks.BY_NAME`, `gate` one the caller knows."""

    data: str
    alpha: float | None
    epsilon: float | None
    attack: str
    gate: str
    seed: int
    rounds: int = 20
    malicious: float = 0.3
    quiet: bool = False
    plan: str = PLANS[0]

    @property
    def setting(self) -> Setting:
        """Which kind of world it is in."""
        return (self.data, self.alpha, self.epsilon)


@dataclass(frozen=True, slots=True)
class Ran:
    """What is kept of a run; `seconds` has the gate's time in each round."""

    trial: Trial
    tpr: float
    fpr: float
    accuracy: float
    backdoor: float
    fallbacks: int
    honest: NDArray[np.float64]
    poisoned: NDArray[np.float64]
    seconds: tuple[float, ...]


Make = Callable[[str, World], Gate]


def matrix(
    settings: Iterable[Setting],
    *,
    seeds: Iterable[int],
    attacks: Sequence[str],
    gates: Sequence[str],
    rounds: int,
    malicious: float,
    quiet: bool,
    plan: str = PLANS[0],
) -> list[Trial]:
    """Returns a trial for each combination that means something, and those without an attack."""
    return [
        Trial(*setting, attack, gate, seed, rounds, malicious, quiet, plan)
        for setting in settings
        for seed in seeds
        for attack in (NONE, *attacks)
        if attack not in PRIVATE_ONLY or setting[2] is not None
        for gate in gates
    ]


def epsilon_of(text: str) -> float | None:
    """Reads `off` or an epsilon; raises ValueError."""
    return None if text == "off" else float(text)


def setting_name(setting: Setting) -> str:
    """Returns e.g. `digits, Dirichlet(0.5), epsilon 8`."""
    data, alpha, epsilon = setting
    split = "IID" if alpha is None else f"Dirichlet({alpha:g})"
    privacy = "no DP" if epsilon is None else f"epsilon {epsilon:g}"
    return f"{data}, {split}, {privacy}"


def run(trial: Trial, make: Make) -> Ran:
    """Runs one trial; `make` returns a fresh gate by its name."""
    here = _world(trial.setting, trial.seed, trial.rounds, trial.plan)
    outcome = simulate(
        here,
        None if trial.attack == NONE else BY_NAME[trial.attack],
        make(trial.gate, here),
        rounds=trial.rounds,
        seed=trial.seed,
        malicious=trial.malicious,
        quiet=trial.quiet,
    )
    honest, poisoned = outcome.scores
    return Ran(
        trial=trial,
        tpr=outcome.tpr,
        fpr=outcome.fpr,
        accuracy=outcome.accuracy,
        backdoor=outcome.backdoor,
        fallbacks=sum(each.fallback for each in outcome.rounds),
        honest=honest,
        poisoned=poisoned,
        seconds=tuple(each.seconds for each in outcome.rounds),
    )


def run_all(trials: Sequence[Trial], make: Make, *, processes: int) -> Iterator[Ran]:
    """Yields each trial's run as it is done; `make` has to be a function of a module."""
    if processes <= 1:
        for trial in trials:
            yield run(trial, make)
        return
    # Spawned: a fork would share the threads of numpy.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=end_with_parent
    ) as pool:
        for done in as_completed([pool.submit(run, trial, make) for trial in trials]):
            yield done.result()


@lru_cache(maxsize=4)
def _world(setting: Setting, seed: int, rounds: int, plan: str) -> World:
    data, alpha, epsilon = setting
    return world(data, seed=seed, alpha=alpha, epsilon=epsilon, rounds=rounds, plan=plan)
