"""The tighter figure: never above the one that limits are held by, for what runs really do."""

from __future__ import annotations

import asyncio

import pytest

from aegis.errors import FailedPrecondition
from aegis_server.privacy import certificate
from aegis_server.privacy.certificate import Certifier, Composition, NotComputable, epsilon_prv

PLAN = (1.1276, 0.3, 60)


@pytest.mark.parametrize(
    ("segments", "delta"),
    [
        ([PLAN], 1e-3),
        ([PLAN, (2.0, 0.1, 30)], 1e-3),
        ([(0.78, 0.01, 5000)], 1e-5),
        ([(4.0, 1.0, 15)], 1e-3),
        ([(4.0, 1.0, 15), PLAN, (3.0, 0.05, 400)], 1e-3),
        ([(20.0, 0.3, 5)], 1e-3),
    ],
    ids=["plan", "two plans", "long", "participants", "three kinds", "little"],
)
def test_certificate_is_below_the_renyi_figure_and_of_its_size(
    segments: list[tuple[float, float, int]], delta: float
) -> None:
    """Kinds of steps are convolved with each other, whole participants among them."""
    task = Composition(segments, delta)
    assert 0.8 * task.epsilon < epsilon_prv(task) <= task.epsilon


def test_certificate_of_the_gaussian_mechanism_is_that_of_its_closed_form() -> None:
    """Fifteen releases without sampling are one with √15 less noise (Balle, Wang 2018)."""
    from math import exp, sqrt

    from scipy.optimize import brentq
    from scipy.stats import norm

    mu = sqrt(15) / 4.0

    def delta_at(epsilon: float) -> float:
        a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return float(norm.cdf(a) - exp(epsilon) * norm.cdf(b))

    exact = brentq(lambda epsilon: delta_at(epsilon) - 1e-3, 0, 20)
    bound = epsilon_prv(Composition([(4.0, 1.0, 15)], 1e-3))
    assert exact <= bound <= exact + 0.03


def test_nothing_spent_is_certified_as_nothing() -> None:
    """Neither from no segments nor from segments without steps."""
    assert epsilon_prv(Composition([], 1e-3)) == 0
    assert epsilon_prv(Composition([(1.0, 0.3, 0)], 1e-3)) == 0


def test_account_the_mesh_does_not_carry_is_no_certificate() -> None:
    """At a delta below what its floating point can tell apart."""
    with pytest.raises(NotComputable):
        epsilon_prv(Composition([PLAN], 1e-17))


async def test_server_without_opacus_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not needed to serve."""
    monkeypatch.setattr(certificate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FailedPrecondition, match="extra `learning`") as refused:
        await Certifier().certify(Composition([PLAN], 1e-3))
    assert refused.value.reason == "CERTIFICATE_UNAVAILABLE"


@pytest.mark.slow
async def test_certificate_comes_from_a_process_that_ends() -> None:
    """Its answer, and its refusal, cross the border; PyTorch's memory does not stay."""
    certifier, task = Certifier(), Composition([PLAN], 1e-3)
    found, refusal = await asyncio.gather(
        certifier.certify(task),
        certifier.certify(Composition([PLAN], 1e-17)),
        return_exceptions=True,
    )
    assert isinstance(found, float)
    assert 0.8 * task.epsilon < found <= task.epsilon
    assert isinstance(refusal, FailedPrecondition)
    assert refusal.reason == "CERTIFICATE_UNAVAILABLE"
    assert "the Renyi figure of the ledger holds" in refusal.message
