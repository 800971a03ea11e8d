"""FedProx: federated averaging of participants who are held near the global model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks",
MLSys 2020, section 3.2 and Algorithm 2: each participant minimises its loss plus
(μ/2)·‖w − w_global‖², and the server averages what comes back. What belongs to the server is the
mean, and to say what μ is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.shares import require_share
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx:
    """The weighted mean; `proximal` is the μ that participants train with.

    Raises `AssumptionBroken` unless μ is positive: without it, this is FedAvg and should say so.
    """

    proximal: float
    share_max: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.proximal) and self.proximal > 0):
            raise AssumptionBroken("proximal", "must be above 0; FedProx without it is FedAvg")
        require_share(self.share_max)

    @property
    def least(self) -> int:
        """As FedAvg."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the mean."""
        return FedAvg(share_max=self.share_max).aggregate(updates)
