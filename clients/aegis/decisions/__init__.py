"""May this subject do this to that? Asked of the server, or answered in this process.

`DecisionClient` asks, and puts the questions of one moment into one call. `LocalDecisionPoint`
keeps a verified copy of the rules and decides by itself. Both give the same answers, and the same
errors for what cannot be asked. docs/local-decisions.md says which to take.
"""

from aegis.decisions.client import DecisionClient
from aegis.decisions.local import LocalDecisionPoint, Standing
from aegis.decisions.values import FULLY_CURRENT, AtLeast, Decision, FullyCurrent, StaleSnapshot

__all__ = [
    "FULLY_CURRENT",
    "AtLeast",
    "Decision",
    "DecisionClient",
    "FullyCurrent",
    "LocalDecisionPoint",
    "StaleSnapshot",
    "Standing",
]
