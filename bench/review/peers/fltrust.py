"""FLTrust (Cao, Fang, Liu, Gong, NDSS 2021): the rule of `aegis_learning.aggregation`, alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning import gradients, parameters
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.refusals import AssumptionBroken, NobodyTrusted
from aegis_learning.aggregation.updates import Updates
from aegis_server.review.lab.simulating import Decided, Sent
from aegis_server.review.lab.worlds import World


@dataclass(frozen=True, slots=True)
class Trust:
    """The root update is trained on the golden rows of the world, as the review's is."""

    world: World

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`. Whoever points away from the root update has no share: it is refused."""
        plan, family = self.world.plan, self.world.family
        after = gradients.descend(
            family,
            sent.base,
            self.world.golden,
            steps=plan.steps,
            learning_rate=plan.learning_rate,
        )
        root = parameters.flatten(parameters.subtract(after, sent.base))
        n = len(sent.matrix)
        try:
            found = FLTrust(root=root).aggregate(Updates.of(sent.matrix))
        except (AssumptionBroken, NobodyTrusted):
            return Decided(np.zeros_like(root), np.ones(n, bool), np.ones(n))
        shares = np.array(found.shares)
        lengths = np.linalg.norm(sent.matrix.astype(np.float64), axis=1)
        cosines = sent.matrix.astype(np.float64) @ root / np.maximum(lengths, 1e-12)
        return Decided(found.update, shares == 0, -cosines / float(np.linalg.norm(root)))
