"""The tighter figure: numerical composition of privacy loss, by Opacus, in a process of its own.

Renyi accounting bounds every moment and pays for that; the privacy random variable accountant
(Gopi, Lee, Wutschitz 2021) convolves the losses themselves. It takes seconds and needs PyTorch, so
limits are held by the fast and larger figure, and this one is computed when somebody asks.
"""

from __future__ import annotations

import asyncio
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aegis.errors import FailedPrecondition
from aegis_learning import privacy
from aegis_server.workers import Workers

# What the mesh may add to epsilon: absolute, or of the Renyi figure where that is more. A finer
# one takes half a minute for an account of twenty kinds of steps.
_EPSILON_ERROR, _RELATIVE_ERROR = 0.01, 1 / 500
# Of delta: what truncation and discretisation may add.
_DELTA_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class Composition:
    """What to certify: segments of (noise multiplier, sample rate, steps), and at which delta."""

    segments: Sequence[tuple[float, float, int]]
    delta: float

    @property
    def epsilon(self) -> float:
        """The figure of Renyi accounting."""
        costs = [privacy.rdp(*each) for each in self.segments]
        return privacy.epsilon_of(np.sum(costs, axis=0), self.delta) if costs else 0.0


class NotComputable(ArithmeticError):
    """The accountant's mesh does not carry these segments."""


def epsilon_prv(task: Composition) -> float:
    """Returns an upper bound of epsilon; needs Opacus. Raises `NotComputable`."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [segment for segment in task.segments if segment[2]]
    if not accountant.history:
        return 0.0
    error = max(_EPSILON_ERROR, _RELATIVE_ERROR * task.epsilon)
    try:
        # At a rate of 1 its density takes the logarithm of zero, where it is zero.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bound = accountant.get_epsilon(
                task.delta, eps_error=error, delta_error=task.delta * _DELTA_ERROR
            )
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise NotComputable(str(error)) from error
    if not np.isfinite(bound):
        raise NotComputable("the bound is not finite")
    return float(bound)


class Certifier:
    """Computes certificates, one at a time: each loads PyTorch, and gives its memory back."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def certify(self, task: Composition) -> float:
        """Returns `epsilon_prv`; raises `FailedPrecondition` (CERTIFICATE_UNAVAILABLE)."""
        if importlib.util.find_spec("opacus") is None:
            raise FailedPrecondition(
                "CERTIFICATE_UNAVAILABLE",
                "this server has no Opacus: install its extra `learning`, and ask again",
            )
        async with self._one:
            workers = Workers(1)
            try:
                return await workers.run(epsilon_prv, task)
            except NotComputable as error:
                raise FailedPrecondition(
                    "CERTIFICATE_UNAVAILABLE",
                    f"the accountant cannot compose this account: {error};"
                    " the Renyi figure of the ledger holds",
                ) from error
            finally:
                await asyncio.to_thread(workers.close)
