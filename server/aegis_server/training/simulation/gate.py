"""The review without its room: the same examiners, in this process."""

from __future__ import annotations

from collections.abc import Mapping

from aegis.v1 import review_pb2, training_pb2
from aegis_learning import parameters
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters
from aegis_server.review.vetting import Case, Submission, vet
from aegis_server.training.plans import dealt
from aegis_server.training.strategy import Judged

Update = review_pb2.Update


class DirectGate:
    """Judges the rounds of one plan; `base` is the model a round's updates start from."""

    def __init__(self, plan: training_pb2.RunPlan) -> None:
        self.attempt = 1
        self.base: Parameters = {}
        self._data = load(plan.dataset)
        self._family = self._data.family(plan.model)
        self._examples = dealt(plan, self._data)

    def judge(self, number: int, updates: Mapping[str, bytes]) -> Judged:
        """Returns the verdict on each participant's update."""
        if not updates:
            return Judged({})
        submissions = tuple(
            Submission(name, data, self._examples[name]) for name, data in updates.items()
        )
        base = parameters.encode(self.base)
        ruling = vet(Case(self._family, self._data.golden, base, submissions))
        verdicts = {
            judgement.update_id: Update(
                update_id=judgement.update_id,
                participant=judgement.update_id,
                round=number,
                score=judgement.score,
                verdict=Update.Verdict.Value(f"VERDICT_{judgement.verdict.name}"),
                findings=[
                    review_pb2.Finding(
                        examiner=finding.examiner,
                        measure=finding.measure,
                        value=finding.value,
                        threshold=finding.threshold,
                        severity=review_pb2.Finding.Severity.Value(
                            f"SEVERITY_{finding.severity.name}"
                        ),
                        text=finding.text,
                    )
                    for finding in judgement.findings
                ],
            )
            for judgement in ruling.judgements
        }
        return Judged(verdicts, fallback=ruling.members if ruling.fallback else (), why=ruling.why)
