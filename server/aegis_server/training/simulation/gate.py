"""The review without its room: the same examiners, in this process."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aegis.v1 import review_pb2, training_pb2
from aegis_learning import parameters
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters
from aegis_server.review.case import Case, Past, Submission
from aegis_server.review.vetting import vet
from aegis_server.training import plans
from aegis_server.training.noise import local_of, noises_of
from aegis_server.training.plans import dealt
from aegis_server.training.strategy import Judged

Update = review_pb2.Update
PAST_MAX = 20


class DirectGate:
    """Judges the rounds of one plan; `base` is the model a round's updates start from."""

    def __init__(self, plan: training_pb2.RunPlan) -> None:
        self.attempt = 1
        self.base: Parameters = {}
        self._data = load(plan.dataset)
        self._family = self._data.family(plan.model)
        self._examples = dealt(plan, self._data)
        self._local = local_of(plan, self._data)
        self._noises = noises_of(plan, plans.noise_of(plan, self._data), self._examples)
        self._past: dict[str, tuple[Past, ...]] = {}
        self._round = 0
        self._models = (b"", b"")

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        """Returns the verdict on each participant's update; here nobody sends another way."""
        if not updates:
            return Judged({})
        if number != self._round:
            self._round, self._models = number, (self._models[1], parameters.encode(self.base))
        before, base = self._models
        submissions = tuple(
            Submission(
                name,
                data,
                self._examples[name],
                participant=name,
                noise=self._noises[name],
                past=self._past.get(name, ()),
            )
            for name, data in updates.items()
        )
        ruling = vet(
            Case(
                self._family,
                self._data.golden,
                base,
                submissions,
                before=before,
                round=number,
                local=self._local,
            )
        )
        for each in ruling.judgements:
            past = Past(number, each.verdict, each.score, each.features, each.sketch)
            self._past[each.update_id] = (*self._past.get(each.update_id, ()), past)[-PAST_MAX:]
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
