"""When a run ends before its last round because the model no longer gets better.

Decided from the stored losses alone, so that coordinator and server come to the same end.
"""

from __future__ import annotations

from collections.abc import Sequence

from aegis.v1 import training_pb2


def stopped_early(plan: training_pb2.RunPlan, losses: Sequence[float]) -> str:
    """Returns why the run is over, or nothing while it is not.

    `losses` are those of the global models on the test rows, the initial model's first.
    """
    if not plan.HasField("early_stop"):
        return ""
    best, since = 0, 0
    for number, loss in enumerate(losses):
        # Not "larger or equal": a loss that is not a number is no gain either.
        if number == 0 or loss < losses[best] - plan.early_stop.min_gain:
            best, since = number, 0
        else:
            since += 1
    if since < plan.early_stop.patience:
        return ""
    return f"stopped early: no gain on round {best} (loss {losses[best]:.4f}) for {since} rounds"
