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
from aegis_server.review import kinds
from aegis_server.review.case import Past
from aegis_server.review.combining import score, verdicts, would_change
from aegis_server.review.detection import builtin
from aegis_server.review.examiners import fingerprint, golden_set, harm, length
from aegis_server.review.findings import Finding, Severity
from aegis_server.review.vetting import Case, Judgement, Ruling, Verdict, vet

A, R, H = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.HELD


def judged(case: Case) -> tuple[Judgement, ...]:
    return vet(case).judgements


def kind_of(judgement: Judgement) -> str:
    return next(f.text for f in judgement.findings if f.measure == kinds.MEASURE)


def finding(strength: float, examiner: str = "length") -> Finding:
    return Finding(examiner, "norm_z", 1.0, 1.0, strength, "a sentence")


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
    assert "length" not in {found.examiner for found in judgement.findings}


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


def test_update_of_zeros_is_rejected():
    """Who sends nothing trained nothing, and takes a share of the model."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in FAMILY.shapes.items()}
    found = judged(replaced(a_round(), 4, parameters.encode(zeros)))
    assert [judgement.verdict for judgement in found] == [A, A, A, A, R]
    assert kind_of(found[4]) == "free-rider"


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
    assert found[2].reason == "length/norm_z"
    assert found[0].reason == ""


def test_base_that_is_not_the_model_is_an_error():
    """Judging against another model would be a verdict about nothing."""
    case = dataclasses.replace(a_round(), family=models.family("mlp", 30, 2))
    with pytest.raises(parameters.ShapeError):
        judged(case)


@pytest.mark.parametrize(
    ("effect", "form", "expected"),
    [
        ([], [], 0.0),
        ([0.2], [0.6, 0.4], 0.6),
        ([1.3], [0.0], 1.3),
        ([0.75], [0.75], 1.0),
        ([0.6], [0.7], 1.3 / 1.5),
    ],
)
def test_in_small_rounds_two_examiners_that_agree_are_enough(
    effect: list[float], form: list[float], expected: float
):
    """max(g, o, (g + o) / 1.5) over the strongest about effect and the strongest about form."""
    found = [*(finding(s, "golden-set") for s in effect), *(finding(s) for s in form)]
    assert score(found, alone=False) == pytest.approx(expected)


def test_where_the_detector_speaks_findings_count_alone():
    """It has weighed together what is only corroborating."""
    found = [finding(0.75, "golden-set"), finding(0.75)]
    assert score(found, alone=True) == 0.75


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


class Failing:
    """An examiner that fails on some rounds."""

    NAME = "failing"

    def __init__(self, fails) -> None:
        self.fails = fails

    def examine(self, population):
        if self.fails(population):
            raise ZeroDivisionError
        return length.examine(population)


def with_examiner(monkeypatch: pytest.MonkeyPatch, fails) -> None:
    monkeypatch.setattr("aegis_server.review.vetting.FURTHER", (harm, Failing(fails)))


def test_examiner_that_fails_on_one_update_holds_that_one(monkeypatch: pytest.MonkeyPatch):
    """Missing input counts as tripped; the others are judged without it, and a finding says so."""
    case = a_round(s3="scale")
    crash = case.submissions[1].data
    with_examiner(monkeypatch, lambda p: any(each.data == crash for each in p.case.submissions))
    found = judged(case)
    assert [each.verdict for each in found] == [A, H, R, A, A]
    assert any(f.measure == "failed" and "failing" in f.text for f in found[1].findings)
    assert not any(f.measure == "failed" for f in found[0].findings)
    assert any("failed" in sentence for sentence in found[1].would_change)


@pytest.mark.parametrize("least", [0, 2])
def test_examiner_that_fails_on_the_round_holds_it(monkeypatch: pytest.MonkeyPatch, least: int):
    """Nobody knows what it would have found: neither accepted nor rejected."""
    with_examiner(monkeypatch, lambda p: len(p) > least)
    assert [each.verdict for each in judged(a_round(s3="scale"))] == [H] * 5


def test_examiner_of_the_detector_that_fails_holds_the_round(monkeypatch: pytest.MonkeyPatch):
    """The detector goes on without its numbers, but nothing is accepted on half of the evidence."""

    def failing(population):
        raise MemoryError

    monkeypatch.setattr(fingerprint, "examine", failing)
    assert [each.verdict for each in judged(a_round())] == [H] * 5


def test_round_without_quorum_names_who_may_be_aggregated_robustly():
    """Most look odd, but the median of the least suspicious does no harm: a run can go on."""
    ruling: Ruling = vet(a_round(sites=8, seed=0, **{f"s{n}": "label-flip" for n in range(4, 9)}))
    assert R not in {each.verdict for each in ruling.judgements}
    assert ruling.fallback
    assert len(ruling.members) == 5
    assert {"s1", "s2", "s3"} < set(ruling.members)
    assert "least suspicious" in ruling.why


def test_round_whose_median_harms_has_no_fallback():
    """A robust aggregate of nothing but poison is poison."""
    ruling = vet(a_round(**{f"s{n}": "label-flip" for n in range(1, 6)}))
    assert (ruling.fallback, ruling.members) == (False, ())
    assert "harms" in ruling.why


def test_ordinary_round_needs_no_fallback():
    """Nothing to explain."""
    ruling = vet(a_round(s3="scale"))
    assert (ruling.fallback, ruling.members, ruling.why) == (False, (), "")
    assert ruling.detector == builtin().version


def test_first_rounds_are_said_to_be_warming_up():
    """There is no past to judge by."""
    assert vet(a_round()).warming_up
    assert not vet(dataclasses.replace(a_round(), round=4)).warming_up


def test_judgement_says_what_would_have_changed_it():
    """Each measure that counted, with its threshold and its value."""
    rejected = judged(a_round(s3="scale"))[2]
    assert any(
        s.startswith("length/norm_z would have to be below 3;") for s in rejected.would_change
    )
    held = would_change([finding(1.2)], H, no_quorum=True)
    assert "more ordinary updates" in held[-1]
    assert would_change([finding(0.1)], A, no_quorum=False) == ()


def test_judgement_remembers_what_the_next_round_needs():
    """Features by name and a sketch; a past of them is taken, and one of nothing is no error."""
    case = a_round(sites=6)
    first = judged(case)
    pasts = [
        (Past(1, each.verdict, each.score, each.features, each.sketch), Past(2, A, 0.0, {}, b""))
        for each in first
    ]
    submissions = tuple(
        dataclasses.replace(each, past=past)
        for each, past in zip(case.submissions, pasts, strict=True)
    )
    again = judged(dataclasses.replace(case, submissions=submissions, round=3))
    assert {each.features["round/remembered"] for each in again} == {1.0}
    assert [each.features.keys() for each in again] == [first[0].features.keys()] * 6
    assert all(np.isfinite(list(each.features.values())).all() for each in again)


def test_shadow_detector_scores_and_decides_nothing():
    """Its score is noted beside the verdict of the one in use, and is of an honest round."""
    case = a_round(sites=8, s3="scale")
    shadowed = judged(dataclasses.replace(case, shadow=builtin().encode()))
    plain = judged(case)
    assert [each.verdict for each in shadowed] == [each.verdict for each in plain]
    rates = np.array([each.false_positive_rate for each in shadowed])
    expected = np.log(rates) / np.log(builtin().target)
    assert [each.shadow_score for each in shadowed] == pytest.approx(expected.tolist())
    assert max(expected) > 1
    assert all(each.shadow_score is None for each in plain)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"direction/root": -3.0, "direction/others": -3.0}, "sign-flip"),
        ({"length/norm": 4.0}, "scaling"),
        ({"twins/nearest": 3.0}, "collusion"),
        ({"noise/residual": 2.5}, "noise"),
        ({"so-far/golden-set/recall": 2.0}, "label-flip"),
        ({}, "unknown"),
    ],
)
def test_what_is_not_accepted_says_what_it_looks_like(changes: dict[str, float], expected: str):
    """A hint for people and statistics, by rules on the numbers the detector saw."""
    ordinary = dict.fromkeys(judged(a_round())[0].features, 0.0)
    (hint,) = kinds.looks_like([], ordinary | changes)
    assert (hint.measure, hint.text, hint.strength) == ("looks_like", expected, 0.0)


@pytest.mark.parametrize(
    ("further", "expected"), [("backward", "sign-flip"), ("wrong", "label-flip")]
)
def test_where_it_has_led_says_what_it_looks_like(further: str, expected: str):
    """Wrong labels lead backward as well, and the other way round: what is found more counts."""
    ordinary = dict.fromkeys(judged(a_round())[0].features, 0.0)
    findings = [
        Finding("labels", measure, -9.0, -2.5, 3.0 if measure == further else 2.0, "")
        for measure in ("backward", "wrong")
    ]
    assert kinds.looks_like(findings, ordinary)[0].text == expected


def test_accepted_update_looks_like_nothing():
    """Nobody is accused of what was not found."""
    measures = [{f.measure for f in each.findings} for each in judged(a_round(s3="scale"))]
    assert [kinds.MEASURE in each for each in measures] == [False, False, True, False, False]


def test_golden_rows_of_one_class_still_judge():
    """No ranking and one recall: the rest of the evidence is there."""
    case = a_round(s3="scale")
    one = case.golden.take(np.flatnonzero(case.golden.y == 0))
    assert judged(dataclasses.replace(case, golden=one))[2].verdict is R
    assert golden_set.NAME in {f.examiner for f in judged(case)[0].findings}


@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_round_of_nothing_is_held(value: float):
    """Five updates of zeros, or of the smallest numbers there are: copies, and no error."""
    same = {name: np.full(shape, value, np.float32) for name, shape in FAMILY.shapes.items()}
    case = a_round()
    for place in range(5):
        case = replaced(case, place, parameters.encode(same))
    found = judged(case)
    assert R not in {each.verdict for each in found}
    assert all(np.isfinite(each.score) for each in found)
