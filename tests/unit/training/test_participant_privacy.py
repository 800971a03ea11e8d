"""Plans that protect whole participants: what they need, whose noise it is, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aegis.errors import InvalidArgument
from aegis.plans import default_plan
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import load
from aegis_learning.models import family
from aegis_learning.parameters import flatten
from aegis_server.privacy.book import PARTICIPANT, RECORD, Mechanism
from aegis_server.training import rounds, strategies, units
from aegis_server.training.plans import noise_of, planned_steps
from aegis_server.training.rounds import Rounds

MODEL = family("logistic", 30, 2)


def _plan(**changes: Any) -> training_pb2.RunPlan:
    plan = default_plan(seed=1, review=False)
    plan.MergeFrom(
        training_pb2.RunPlan(
            model="logistic",
            rounds=4,
            privacy_unit=training_pb2.PRIVACY_UNIT_PARTICIPANT,
            update_clip_norm=0.5,
        )
    )
    for name, value in changes.items():
        if isinstance(value, training_pb2.StrategySettings):
            plan.settings.CopyFrom(value)
        else:
            setattr(plan, name, value)
    return plan


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategy": training_pb2.STRATEGY_FED_MEDIAN}, "plan.privacy_unit"),
        ({"update_clip_norm": 0.0}, "plan.update_clip_norm"),
        ({"review": True}, "plan.review"),
        (
            {"settings": training_pb2.StrategySettings(share_max=0.5)},
            "plan.settings.share_max",
        ),
        (
            {"settings": training_pb2.StrategySettings(server_momentum=0.5)},
            "plan.settings.server_momentum",
        ),
        ({"delta": 0.2}, "plan.delta"),
        ({"privacy_unit": training_pb2.PRIVACY_UNIT_RECORD}, "plan.update_clip_norm"),
        ({"privacy_unit": training_pb2.PRIVACY_UNIT_UNSPECIFIED}, "plan.update_clip_norm"),
    ],
)
def test_plan_that_does_not_protect_participants_is_refused_by_field(
    changes: dict[str, Any], field: str
) -> None:
    """Each of them would make the promise untrue, or was meant for another plan."""
    with pytest.raises(InvalidArgument) as refused:
        noise_of(_plan(**changes))
    assert [violation.field for violation in refused.value.violations] == [field]


def test_embedded_rows_that_are_no_secret_are_needed() -> None:
    """Embedded sites add no noise of their own, so their rows are told to the coordinator."""
    with pytest.raises(InvalidArgument) as refused:
        noise_of(_plan(), replace(load("breast-cancer"), public=False))
    assert [violation.field for violation in refused.value.violations] == ["plan.privacy_unit"]


@pytest.mark.filterwarnings("ignore:Optimal order")
def test_noise_keeps_all_rounds_within_the_target_by_opacus_as_well() -> None:
    """One release a round without sampling, composed over the whole run."""
    from opacus.accountants import RDPAccountant

    plan = _plan(rounds=20)
    noise = noise_of(plan)
    accountant = RDPAccountant()
    accountant.history = [(noise, 1.0, 20)]
    assert 0.995 * 8 < accountant.get_epsilon(delta=plan.delta) <= 8
    assert units.epsilon_of(plan, noise, planned_steps(plan)) == pytest.approx(
        accountant.get_epsilon(delta=plan.delta), abs=5e-4
    )


def test_steps_of_sites_count_as_the_rounds_they_make_up() -> None:
    """A round that was begun is paid for as a whole."""
    plan = _plan()
    assert [units.mechanism_of(plan, 2.0, steps).steps for steps in (0, 1, 4, 5, 16)] == [
        *(0, 1, 1, 2, 4)
    ]
    mechanism = units.mechanism_of(plan, 2.0, 8)
    assert (mechanism.unit, mechanism.sample_rate, mechanism.clip_norm) == (PARTICIPANT, 1.0, 0.5)
    assert units.epsilon_of(plan, 2.0, 0) == 0


def test_one_record_is_counted_at_half_the_noise() -> None:
    """It leads from one clipped update to another, which is twice as far as to none."""
    shielded = Mechanism(4.0, 1.0, 10, unit=PARTICIPANT)
    assert np.allclose(shielded.cost(), privacy.rdp(2.0, 1.0, 10))
    # The Gaussian mechanism in closed form: steps · alpha · (2C)² / (2 (z·C)²).
    assert np.allclose(shielded.cost(), 10 * privacy.ORDERS * 2**2 / (2 * 4.0**2))


@pytest.mark.parametrize("sites", [training_pb2.SITES_ENROLLED, training_pb2.SITES_FLOWER])
def test_sites_of_their_own_keep_their_noise_for_each_record(sites: Any) -> None:
    """What they send is seen by more than the sum, and that is what the ledger counts."""
    plan = _plan(sites=sites, simulation=False)
    noise = noise_of(plan)
    assert noise == noise_of(
        _plan(
            sites=sites,
            simulation=False,
            privacy_unit=training_pb2.PRIVACY_UNIT_RECORD,
            update_clip_norm=0.0,
        )
    )
    assert units.site_noise(plan, noise) == noise
    assert units.server_noise(plan) > 0
    mechanism = units.mechanism_of(plan, noise, 8)
    assert (mechanism.unit, mechanism.sample_rate, mechanism.steps) == (RECORD, 0.3, 8)


def test_only_the_server_adds_noise_to_embedded_sites() -> None:
    """And none of it is added where records are protected."""
    assert units.site_noise(_plan(), 3.0) == 0
    record = _plan(privacy_unit=training_pb2.PRIVACY_UNIT_RECORD, update_clip_norm=0.0)
    assert (units.site_noise(record, 3.0), units.server_noise(record)) == (3.0, 0.0)


def test_rule_without_a_source_of_noise_is_none() -> None:
    """It cannot be forgotten on the way."""
    with pytest.raises(AssumptionBroken, match="needs noise"):
        strategies.rule_of(_plan())


def _updates(plan: training_pb2.RunPlan, *, repeat: int = 0) -> np.ndarray:
    base = MODEL.initial(plan.seed)
    model = Rounds(plan, noise_of(plan), None).train(1, base, repeat=repeat, attempt=1).model
    assert model is not None
    return flatten(model) - flatten(base)


def test_server_noise_repeats_in_simulations_only() -> None:
    """The same seed and try give the same model; a private run never does."""
    simulated = _plan()
    assert np.array_equal(_updates(simulated), _updates(simulated))
    assert not np.allclose(_updates(simulated), _updates(simulated, repeat=1))
    private = _plan(simulation=False)
    assert not np.allclose(_updates(private), _updates(private))


def test_model_moves_by_clipped_updates_and_noise_of_the_promised_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """z·C/m, beside the same rounds without it, which move no further than the clip norm."""
    plan = _plan()
    noisy = [_updates(plan, repeat=repeat) for repeat in range(12)]
    monkeypatch.setattr(rounds, "noise_of", lambda *_: np.zeros)
    quiet = [_updates(plan, repeat=repeat) for repeat in range(12)]
    assert all(np.linalg.norm(each) <= plan.update_clip_norm * 1.001 for each in quiet)
    spread = units.server_noise(plan) * plan.update_clip_norm / plan.participants
    assert np.std(np.subtract(noisy, quiet)) == pytest.approx(spread, rel=0.1)


def test_run_that_protects_participants_learns() -> None:
    """Sixty sites at epsilon 8: noise falls with their number."""
    plan = _plan(participants=60, min_participants=60, rounds=8, update_clip_norm=2.0)
    run, model = Rounds(plan, noise_of(plan), None), MODEL.initial(1)
    before = run.report(0, model, [], steps=0).accuracy
    for number in range(1, plan.rounds + 1):
        tried = run.train(number, model, repeat=0, attempt=number)
        assert tried.model is not None, tried.losses
        model = tried.model
    after = run.report(plan.rounds, model, [], steps=0).accuracy
    assert after > max(0.9, before)
