"""What a reviewed run remembers of its rounds to keep backdoors out of its models.

A round that is tried again is judged again from what the rounds before have left: what a try has
found counts once a later round begins. The memory is that of one coordinator; who takes over from
another begins anew, and can take out of the model what was given since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_learning.datasets import Dataset
from aegis_learning.parameters import Parameters
from aegis_server.review import publishing
from aegis_server.review.candidates import Combine
from aegis_server.review.case import Case, Submission
from aegis_server.review.history import History, Published, Scan
from aegis_server.review.population import Population
from aegis_server.training.noise import local_of, noises_of

_TEXT_MAX = 500


class Publisher:
    """Makes the models of one plan's rounds; `examples` are the participants' enrolled rows."""

    def __init__(
        self,
        plan: training_pb2.RunPlan,
        noise_multiplier: float,
        data: Dataset,
        examples: Mapping[str, int],
    ) -> None:
        self._family = data.family(plan.model)
        self._golden = data.golden
        self._examples = examples
        self._local = local_of(plan, data)
        self._noises = noises_of(plan, noise_multiplier, examples)
        self._least = plan.min_participants
        self._history = History(momentum=plan.settings.server_momentum)
        self._tried: tuple[int, History] = (0, self._history)
        self._number = 0

    def begin(self, number: int) -> None:
        """Begins a try of a round; what the last try of an earlier one has found counts now."""
        self._number = number
        if self._tried[0] < number:
            self._history = self._tried[1]

    def publish(
        self,
        base: Parameters,
        updates: Mapping[str, Parameters],
        accepted: Sequence[str],
        combine: Combine,
        *,
        least: int,
    ) -> Published:
        """Returns what comes of a round; places are in order of `updates`. See `publishing`.

        Raises what `combine` raises.
        """
        submissions = tuple(
            Submission(name, b"", self._examples[name], participant=name, noise=self._noises[name])
            for name in updates
        )
        population = Population(
            Case(
                self._family,
                self._golden,
                parameters.encode(base),
                submissions,
                round=self._number,
                local=self._local,
            ),
            np.stack([parameters.flatten(update) for update in updates.values()]),
        )
        names = list(updates)
        published = publishing.publish(
            population,
            [names.index(name) for name in accepted],
            combine,
            self._history,
            least=max(self._least, least),
        )
        self._tried = (self._number, published.history)
        return published

    def looked(self, model: Parameters) -> Scan | None:
        """Returns what the search finds in a model that was made another way."""
        if not len(self._golden):
            return None
        history, scan = publishing.looked(self._family, model, self._golden, self._history)
        self._tried = (self._number, history)
        return scan


def message(scan: Scan, excluded: Sequence[str]) -> training_pb2.TriggerScan:
    """Returns a scan as it is stored and shown."""
    trigger = scan.found.trigger
    return training_pb2.TriggerScan(
        suspicious=scan.suspicious,
        target_class=trigger.target,
        features=trigger.features,
        values=trigger.values,
        success_rate=scan.found.success,
        threshold=min(scan.threshold, 1.0),
        excluded=excluded,
        text=scan.text[:_TEXT_MAX],
    )
