"""The rule that turns findings into verdicts."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.review.factories import FAMILY, a_round

from aegis_learning import models, parameters
from aegis_server.review.findings import Finding, Severity
from aegis_server.review.vetting import Case, Judgement, Verdict, score, verdicts, vet

A, R, H = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.HELD


def judged(case: Case) -> tuple[Judgement, ...]:
    return vet(case).judgements


def finding(strength: float) -> Finding:
    return Finding("outlier", "norm_z", 1.0, 1.0, strength, "a sentence")


def replaced(case: object, position: int, data: bytes) -> object:
    submissions = list(case.submissions)
    submissions[position] = dataclasses.replace(submissions[position], data=data)
    return dataclasses.replace(case, submissions=tuple(submissions))


@pytest.mark.parametrize("seed", range(6))
def test_honest_round_is_accepted_whole(seed: int):
    """Unevenly dealt labels and privacy noise are no reason to reject anybody."""
    assert [judgement.verdict for judgement in judged(a_round(seed=seed))] == [A] * 5


@pytest.mark.parametrize("kind", ["sign-flip", "label-flip", "noise", "scale"])
@pytest.mark.parametrize("seed", range(3))
def test_one_attacker_of_five_is_rejected_alone(kind: str, seed: int):
    """Each kind of poisoned update is rejected, and none of its honest peers."""
    assert [each.verdict for each in judged(a_round(seed=seed, s3=kind))] == [A, A, R, A, A]


def test_two_different_attackers_of_five_are_both_rejected():
    """Three honest updates are a quorum against two."""
    found = judged(a_round(s2="sign-flip", s5="noise"))
    assert [judgement.verdict for judgement in found] == [A, R, A, A, R]


def test_three_attackers_of_five_reject_nobody():
    """Most of a round against the rest: nobody is convicted, nothing suspicious is aggregated."""
    found = judged(a_round(s1="sign-flip", s2="noise", s3="label-flip"))
    assert R not in {judgement.verdict for judgement in found}
    assert H in {judgement.verdict for judgement in found}


def test_attacker_of_two_is_held_not_rejected():
    """With two updates each is the other's outlier, so a person has to look."""
    assert [judgement.verdict for judgement in judged(a_round(sites=2, s2="sign-flip"))] == [A, H]


def test_attacker_of_three_is_rejected():
    """Two ordinary updates are the smallest quorum."""
    assert [judgement.verdict for judgement in judged(a_round(sites=3, s3="sign-flip"))] == [
        A,
        A,
        R,
    ]


def test_single_honest_update_is_judged_by_the_golden_set_alone():
    """Without peers there is nothing to compare; it does no harm, so it may pass."""
    case = a_round(sites=2)
    alone = dataclasses.replace(case, submissions=case.submissions[:1])
    (judgement,) = judged(alone)
    assert judgement.verdict is A
    assert {found.examiner for found in judgement.findings} == {"golden-set"}


def test_single_harmful_update_is_held():
    """One update alone can be harmful, but there is no peer to reject it."""
    case = a_round(sites=2, s1="label-flip")
    (judgement,) = judged(dataclasses.replace(case, submissions=case.submissions[:1]))
    assert judgement.verdict is H


def test_identical_updates_are_rejected_as_copies():
    """Independent data and noise never give the same direction twice."""
    case = a_round()
    copied = replaced(case, 1, case.submissions[0].data)
    assert [judgement.verdict for judgement in judged(copied)] == [R, R, A, A, A]


def test_update_of_zeros_is_accepted():
    """Doing nothing is no attack; its direction is undefined, which must not be an error."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in FAMILY.shapes.items()}
    found = judged(replaced(a_round(), 4, parameters.encode(zeros)))
    assert [judgement.verdict for judgement in found] == [A] * 5


def test_largest_finite_update_is_rejected_not_an_error():
    """Numbers near the end of float32 overflow on the way to a loss and still get a verdict."""
    huge = {name: np.full(shape, 3e38, np.float32) for name, shape in FAMILY.shapes.items()}
    found = judged(replaced(a_round(), 0, parameters.encode(huge)))
    assert [judgement.verdict for judgement in found] == [R, A, A, A, A]
    assert all(np.isfinite(each.value) for judgement in found for each in judgement.findings)


def test_round_whose_mean_ruins_the_model_is_held():
    """When the ordinary-looking majority itself is poisoned, nothing is aggregated."""
    found = judged(a_round(**{f"s{n}": "label-flip" for n in range(1, 6)}))
    assert {H} == {judgement.verdict for judgement in found}


def test_unknown_enrolment_still_finds_the_attacker():
    """Without examples, lengths are compared as they are."""
    case = a_round(s3="sign-flip")
    unknown = tuple(dataclasses.replace(each, examples=0) for each in case.submissions)
    found = judged(dataclasses.replace(case, submissions=unknown))
    assert found[2].verdict is R


def test_case_and_judgements_survive_the_way_to_a_worker_process():
    """Everything that crosses the process boundary is a plain value."""
    case = a_round(s3="noise")
    assert judged(case) == pickle.loads(pickle.dumps(judged(pickle.loads(pickle.dumps(case)))))


def test_order_of_submissions_does_not_change_verdicts():
    """Nobody gains by being first."""
    case = a_round(s1="scale")
    turned = dataclasses.replace(case, submissions=case.submissions[::-1])
    straight = {each.update_id: each.verdict for each in judged(case)}
    assert straight == {each.update_id: each.verdict for each in judged(turned)}


def test_reason_names_what_decided():
    """An audit record says which measure it was; an accepted update needs no reason."""
    found = judged(a_round(s3="scale"))
    assert found[2].reason == "outlier/norm_z"
    assert found[0].reason == ""


def test_base_that_is_not_the_model_is_an_error():
    """Judging against another model would be a verdict about nothing."""
    case = dataclasses.replace(a_round(), family=models.family("mlp", 30, 2))
    with pytest.raises(parameters.ShapeError):
        judged(case)


@pytest.mark.parametrize(
    ("golden", "outlier", "expected"),
    [
        ([], [], 0.0),
        ([0.2], [0.6, 0.4], 0.6),
        ([1.3], [0.0], 1.3),
        ([0.75], [0.75], 1.0),
        ([0.6], [0.7], 1.3 / 1.5),
    ],
)
def test_score_is_one_convinced_examiner_or_two_that_agree(
    golden: list[float], outlier: list[float], expected: float
):
    """max(g, o, (g + o) / 1.5) over each examiner's strongest finding."""
    found = score([finding(s) for s in golden], [finding(s) for s in outlier])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2, 0.9, 1.0], [A, A, R]),
        ([0.2, 1.5], [A, H]),
        ([1.5], [H]),
        ([0.1, 0.1, 2, 2], [A, A, R, R]),
        ([0.1, 0.1, 2, 2, 2], [A, A, H, H, H]),
        ([2, 2, 2], [H, H, H]),
        ([], []),
    ],
)
def test_rejection_needs_a_quorum_of_ordinary_updates(scores: list[float], expected: list[Verdict]):
    """At least two, and at least half of the round."""
    assert expected == verdicts(scores)


@given(st.lists(st.floats(0, 100), max_size=12))
def test_no_round_is_ever_rejected_whole(scores: list[float]):
    """Rejecting everybody for ever is the deadlock this rule exists against."""
    decided = verdicts(scores)
    assert 2 * decided.count(R) <= len(decided)
    assert all(
        (value < 1) == (verdict is A) for value, verdict in zip(scores, decided, strict=True)
    )


@pytest.mark.parametrize(
    ("strength", "severity"),
    [(0, Severity.INFO), (0.74, Severity.INFO), (0.75, Severity.WARNING), (1, Severity.CRITICAL)],
)
def test_severity_follows_strength(strength: float, severity: Severity):
    """INFO below three quarters, CRITICAL from one on."""
    assert severity is finding(strength).severity
