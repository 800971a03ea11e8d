"""Plans with a strategy: what is refused before a run starts, and a short run of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from aegis.errors import InvalidArgument
from aegis.plans import STRATEGIES, Strategy, default_plan
from aegis.v1 import training_pb2
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import load
from aegis_learning.models import family
from aegis_learning.parameters import Parameters, encode, flatten
from aegis_server.training import strategies
from aegis_server.training.plans import noise_of
from aegis_server.training.rounds import Rounds

Outcome = training_pb2.ParticipantRound
MLP = family("mlp", 30, 2)


def _plan(
    name: str = "fed-avg", *, participants: int = 7, **settings: float
) -> training_pb2.RunPlan:
    strategy = Strategy(name, **settings)  # type: ignore[arg-type]
    plan = default_plan(seed=1, review=False, participants=participants, strategy=strategy)
    plan.rounds = 4
    return plan


@pytest.mark.parametrize(
    ("name", "participants", "settings", "field"),
    [
        ("trimmed-mean", 6, {"malicious": 3}, "plan.min_participants"),
        ("fed-median", 6, {"malicious": 3}, "plan.min_participants"),
        ("krum", 6, {"malicious": 2}, "plan.min_participants"),
        ("multi-krum", 6, {"malicious": 2}, "plan.min_participants"),
        ("multi-krum", 7, {"malicious": 2, "selected": 6}, "plan.settings.selected"),
        ("bulyan", 6, {"malicious": 1}, "plan.min_participants"),
        ("fed-avg", 5, {"malicious": 1}, "plan.settings.malicious"),
        ("fed-avg", 5, {"proximal": 0.1}, "plan.settings.proximal"),
        ("fed-median", 5, {"share_max": 0.5}, "plan.settings.share_max"),
        ("krum", 5, {"selected": 2}, "plan.settings.selected"),
        ("fl-trust", 5, {"malicious": 1}, "plan.settings.malicious"),
        ("fed-prox", 5, {"server_learning_rate": 0.1}, "plan.settings.server_learning_rate"),
        ("fed-prox", 5, {"proximal": 2.0}, "plan.settings.proximal"),
        ("fed-prox", 5, {"server_momentum": 0.9}, "plan.settings.server_momentum"),
    ],
)
def test_plan_that_breaks_an_assumption_is_refused_by_field(
    name: str, participants: int, settings: dict[str, float], field: str
) -> None:
    """n is the fewest updates a round may go on with, and settings belong to their strategy."""
    with pytest.raises(InvalidArgument) as refused:
        noise_of(_plan(name, participants=participants, **settings))
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize(
    ("name", "field"), [("fed-prox", "proximal"), ("fed-adam", "server_learning_rate")]
)
def test_setting_a_strategy_cannot_do_without_is_asked_for(name: str, field: str) -> None:
    """Zero is not a default there."""
    plan = _plan(name)
    plan.ClearField("settings")
    with pytest.raises(InvalidArgument) as refused:
        noise_of(plan)
    assert [violation.field for violation in refused.value.violations] == [f"plan.settings.{field}"]


def test_assumption_has_to_hold_for_the_fewest_and_not_for_all() -> None:
    """Seven participants are enough for f = 2, three of them that answer are not."""
    plan = _plan("krum", malicious=2)
    noise_of(plan)
    plan.min_participants = 6
    with pytest.raises(InvalidArgument, match=r"2·2 \+ 3"):
        noise_of(plan)


def test_root_of_trust_has_to_be_public() -> None:
    """A root update has no noise, so rows that are a secret must not be in it."""
    data = load("breast-cancer")
    secret = dataclasses.replace(data, public=False)
    with pytest.raises(InvalidArgument, match="public"):
        noise_of(_plan("fl-trust"), secret)


def test_centre_has_to_be_public() -> None:
    """It is told to everybody, exactly, whomever the noise protects."""
    plan = _plan()
    plan.centred = True
    noise_of(plan)
    secret = dataclasses.replace(load("breast-cancer"), public=False)
    for unit in (training_pb2.PRIVACY_UNIT_RECORD, training_pb2.PRIVACY_UNIT_PARTICIPANT):
        plan.privacy_unit = unit
        with pytest.raises(InvalidArgument) as refused:
            noise_of(plan, secret)
        assert "plan.centred" in [violation.field for violation in refused.value.violations]


def test_momentum_and_centre_change_what_is_learned_and_are_repeated() -> None:
    """Four rounds; what the strategy remembers has the shapes the plan says."""
    plain = _plan()
    tuned = _plan(server_momentum=0.9)
    tuned.centred = True
    models = [encode(_run(plan)[0]) for plan in (plain, tuned, tuned)]
    assert models[1] == models[2] != models[0]
    assert strategies.state_shapes(plain, MLP.shapes) == {}
    assert strategies.state_shapes(tuned, MLP.shapes) == {"momentum": (530,)}


def test_every_strategy_of_the_contract_has_a_rule_and_its_settings() -> None:
    """A value added to the enum without a rule would fail in the first round of a run."""
    root = np.ones(3, np.float32)
    for name in STRATEGIES:
        assert strategies.rule_of(_plan(name), root=root).least >= 1
    with pytest.raises(AssumptionBroken):
        strategies.rule_of(_plan("fl-trust"))


def _run(
    plan: training_pb2.RunPlan, stop: Callable[[int], bool] = lambda number: False
) -> tuple[Parameters, Rounds, list[list[Outcome]]]:
    rounds = Rounds(plan, noise_of(plan), None)
    model, state, told = family(plan.model, 30, 2).initial(plan.seed), None, []
    for number in range(1, plan.rounds + 1):
        tried = rounds.train(number, model, repeat=0, attempt=1, state=state)
        assert tried.model is not None, tried.losses
        model, state = tried.model, tried.state
        told.append(tried.participants)
        if stop(number):
            break
    return model, rounds, told


SETTINGS: dict[str, dict[str, float]] = {
    "fed-avg": {"share_max": 0.3},
    "fed-prox": {"proximal": 0.1, "share_max": 0.3},
    "fed-adam": {"server_learning_rate": 0.1},
    "fed-median": {"malicious": 2},
    "trimmed-mean": {"malicious": 2},
    "krum": {"malicious": 2},
    "multi-krum": {"malicious": 2},
    "bulyan": {"malicious": 1},
    "fl-trust": {},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_short_run_learns_and_can_be_repeated_bit_for_bit(name: str) -> None:
    """Seven sites, four rounds; every strategy is better than the larger class."""
    plan = _plan(name, **SETTINGS[name])
    model, rounds, told = _run(plan)
    again, _, _ = _run(plan)
    assert encode(model) == encode(again)
    assert rounds.report(4, model, [], steps=16).accuracy > 0.75
    parts = [sum(p.outcome == Outcome.OUTCOME_AGGREGATED for p in each) for each in told]
    if name in {"krum", "multi-krum"}:
        assert parts == [1 if name == "krum" else 5] * 4
    elif name != "fl-trust":
        assert parts == [7] * 4


@pytest.mark.parametrize("name", ["fed-median", "trimmed-mean", "krum", "multi-krum", "bulyan"])
def test_robust_strategy_learns_beside_an_attacker_who_ruins_the_mean(name: str) -> None:
    """One of seven sends its update times a hundred, and nobody reviews."""
    accuracy = {}
    for each in ("fed-avg", name):
        plan = _plan(each, **({} if each == "fed-avg" else {"malicious": 1}))
        kind = training_pb2.ATTACK_KIND_SIGN_FLIP
        plan.attacks.add(participant="site-7", kind=kind, scale=100)
        model, rounds, _ = _run(plan)
        accuracy[each] = rounds.report(4, model, [], steps=16).accuracy
    assert accuracy["fed-avg"] < 0.7 < accuracy[name]


def test_proximal_term_reaches_the_participants_and_shortens_updates() -> None:
    """The first round's models differ by it and by nothing else."""
    lengths = []
    for strategy in (Strategy(), Strategy("fed-prox", proximal=1.0)):
        plan = default_plan(seed=1, review=False, strategy=strategy)
        start = family(plan.model, 30, 2).initial(plan.seed)
        tried = Rounds(plan, noise_of(plan), None).train(1, start, repeat=0, attempt=1)
        assert tried.model is not None
        lengths.append(np.linalg.norm(flatten(tried.model) - flatten(start)))
    assert lengths[1] < 0.8 * lengths[0]


def test_root_update_that_points_nowhere_fails_the_round_and_says_so() -> None:
    """A model that has overflowed has no update; no site is asked for one either."""
    plan = _plan("fl-trust")
    broken = {name: np.full(shape, np.nan, np.float32) for name, shape in MLP.shapes.items()}
    tried = Rounds(plan, noise_of(plan), None).train(1, broken, repeat=0, attempt=1)
    assert (tried.model, tried.accepted) == (None, 0)
    assert "root" in tried.losses


def test_unknown_strategy_has_no_plan() -> None:
    """The command line says which there are."""
    with pytest.raises(ValueError, match="no strategy"):
        Strategy("fed-magic")


def test_plan_without_settings_has_the_bytes_it_had_before_there_were_any() -> None:
    """A request that was sent before an upgrade is still the same request after it."""
    assert not default_plan().HasField("settings")
