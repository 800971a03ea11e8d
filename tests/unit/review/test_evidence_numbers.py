"""Evidence says what was measured, in the same bytes every time, and names nobody else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.review.factories import DATASET, FAMILY, a_round

from aegis_learning import models, parameters
from aegis_server.review.case import Case, Verdict
from aegis_server.review.desks import Examined, Stuck, Task
from aegis_server.review.evidence import attribution
from aegis_server.review.evidence.numbers import amended, digest_of, numbers
from aegis_server.review.isolation import Examining
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet


def evidence_of(case: Case) -> dict[str, dict[str, Any]]:
    return {name: json.loads(data) for name, data in made(case).items()}


def made(case: Case) -> dict[str, bytes]:
    return dict(numbers(case, vet(case), Population(case)))


def named(case: Case) -> Case:
    submissions = tuple(
        replace(each, participant=f"hospital-{each.update_id}") for each in case.submissions
    )
    return replace(case, submissions=submissions)


def test_equal_rounds_have_equal_evidence():
    """Nothing is drawn or timed, so that a digest can be recorded."""
    assert made(a_round(s3="label-flip")) == made(a_round(s3="label-flip"))


def test_evidence_is_about_the_update_it_names():
    """Digests, participant and verdict are those of one submission."""
    case = named(a_round(s3="sign-flip"))
    judgement = vet(case).judgements[2]
    told = evidence_of(case)["s3"]
    assert told["update"] == {
        "update_id": "s3",
        "participant": "hospital-s3",
        "sha256": hashlib.sha256(case.submissions[2].data).hexdigest(),
        "size_bytes": len(case.submissions[2].data),
    }
    assert told["judgement"]["verdict"] == judgement.verdict == "rejected"
    assert [each["text"] for each in told["judgement"]["findings"]] == [
        each.text for each in judgement.findings
    ]
    assert told["golden"] == {"rows": 64, "sha256": digest_of(case.golden).hex()}
    assert told["model"]["base_sha256"] == hashlib.sha256(case.base).hexdigest()


def test_other_participants_are_numbers_in_ascending_order():
    """A hospital that is shown its own evidence learns nobody else's place in the round."""
    case = named(a_round(s3="sign-flip"))
    data = made(case)["s1"]
    for other in ("s2", "s3", "s4", "s5"):
        assert f'"{other}"'.encode() not in data
        assert f"hospital-{other}".encode() not in data
    scores = json.loads(data)["population"]["scores"]
    assert scores == sorted(scores)
    assert len(scores) == 5


def test_evidence_stays_small():
    """Tens of KB each, whatever the verdict."""
    assert max(map(len, made(a_round(s3="label-flip")).values())) < 40_000


def test_confusion_counts_every_golden_row_once():
    """Down the true class, across the answer."""
    told = evidence_of(a_round(s3="sign-flip"))["s3"]["confusion"]
    expected = [int((DATASET.golden.y == label).sum()) for label in (0, 1)]
    assert [list(map(sum, table)) for table in told.values()] == [expected] * 3


def test_reversed_update_looks_at_the_opposite():
    """A sign-flipped update's attributions point against the honest reference."""
    told = evidence_of(a_round(s3="sign-flip"))
    flipped = told["s3"]["attribution"]["cosine"]
    assert flipped < min(told[name]["attribution"]["cosine"] for name in ("s1", "s2", "s4", "s5"))


def test_model_that_overflows_has_evidence():
    """Numbers that are not finite become null; the round's others have theirs as ever."""
    case = a_round()
    huge = {name: np.full(shape, 3e38, np.float32) for name, shape in FAMILY.shapes.items()}
    attacker = replace(case.submissions[0], data=parameters.encode(huge))
    case = replace(case, submissions=(attacker, *case.submissions[1:]))
    told = evidence_of(case)
    assert None in np.ravel(told["s1"]["attribution"]["update"])
    assert sum(map(sum, told["s1"]["confusion"]["update"])) == 64
    assert None not in np.ravel(told["s2"]["attribution"]["update"])


def test_amended_evidence_has_the_other_judgement_and_nothing_else_changed():
    """Where an examiner failed, what the others accepted is held after all."""
    case = a_round()
    ruling = vet(case)
    before = made(case)["s1"]
    held = replace(ruling.judgements[0], verdict=Verdict.HELD)
    after = json.loads(amended(before, ruling, held))
    assert after["judgement"]["verdict"] == "held"
    assert {**after, "judgement": None} == {**json.loads(before), "judgement": None}


def test_attributions_of_a_linear_model_are_exact():
    """w (x - mean x), Lundberg and Lee 2017."""
    params, rows = FAMILY.initial(5), DATASET.golden.x[:20]
    exact = (rows - rows.mean(axis=0))[:, :, None] * params["layer1.weight"].T
    found = attribution.attributions(FAMILY, params, rows)
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp-16", "mlp-12-8"])
def test_attributions_add_up_to_the_answers(name: str):
    """Completeness: over the features they sum to the logit less its mean over the background."""
    family = models.family(name, 30, 2)
    params, rows = family.initial(5), DATASET.golden.x
    answers = family.logits(params, rows)
    sums = attribution.attributions(family, params, rows).sum(axis=1)
    gaps = sums - (answers - answers.mean(axis=0))
    assert np.sqrt((gaps**2).mean()) < 0.1 * answers.std()


class Halting:
    """A desk at which one examiner comes to no end."""

    async def do(self, task: Task, *, seconds: float) -> Examined:
        """Examines without it only."""
        if not task.without:
            raise Stuck("outlier", "came to no end in 60 s")
        ruling = task.vet(task.case, begin=lambda name: None, without=task.without)
        return Examined(ruling, numbers(task.case, ruling, Population(task.case)))


async def test_evidence_says_what_was_decided_without_an_examiner_that_failed():
    """What the others accepted is held, and the evidence says so as well."""
    examining = Examining(vet, 60.0, numbers)
    examined = await examining.examine(Halting(), a_round())  # type: ignore[arg-type]
    told = json.loads(examined.numbers["s1"])["judgement"]
    assert examined.ruling.judgements[0].verdict == told["verdict"] == "held"
    assert told["findings"][0]["measure"] == "failure"
