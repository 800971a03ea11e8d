"""How it was before the change: what the looks afterwards are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_executor.catalogue.base import Place, Seen
from aegis_executor.verification.probes.drift import Mark, mark_of
from aegis_executor.verification.probes.health import restarts_of, staying
from aegis_executor.verification.prometheus import Unanswered
from aegis_executor.verification.sight import Anchor, anchor_of, pinned_of

_NOT_CAPTURED = Unanswered("nobody looked before the change")


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was seen before; the one of an execution that has none is empty."""

    anchor: Anchor = Anchor()  # noqa: RUF009  # frozen
    mark: Mark = Mark()  # noqa: RUF009  # frozen
    # By pod uid; None when the pods could not be read.
    restarts: Mapping[str, int] | None = None
    metrics: Mapping[str, float | Unanswered] = field(default_factory=dict)

    def metric(self, query: str) -> float | Unanswered:
        """Returns what a query yielded before."""
        return self.metrics.get(query, _NOT_CAPTURED)

    def to_json(self) -> dict[str, Any]:
        """Returns the form it has in the journal."""
        return {
            "anchor": {
                "deployment": self.anchor.deployment,
                "controller_uid": self.anchor.controller_uid,
                "labels": dict(self.anchor.labels),
            },
            "uid": self.mark.uid,
            "generation": self.mark.generation,
            "action_id": self.mark.action_id,
            "restarts": dict(self.restarts) if self.restarts is not None else None,
            "metrics": {q: v for q, v in self.metrics.items() if not isinstance(v, Unanswered)},
            "unanswered": {q: v.why for q, v in self.metrics.items() if isinstance(v, Unanswered)},
        }

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Baseline:
        """Reads what `to_json` wrote."""
        return cls(
            anchor=Anchor(**kept["anchor"]),
            mark=Mark(kept["uid"], kept["generation"], kept["action_id"]),
            restarts=kept["restarts"],
            metrics={
                **kept["metrics"],
                **{query: Unanswered(why) for query, why in kept["unanswered"].items()},
            },
        )


def baseline_of(
    place: Place, seen: Seen, metrics: Mapping[str, float | Unanswered], *, counted: bool
) -> Baseline:
    """Returns what is to be remembered; `counted` says whether the pods could be read."""
    return Baseline(
        anchor=anchor_of(seen, place),
        mark=mark_of(pinned_of(seen, place)),
        restarts=restarts_of(staying(seen.pods)) if counted else None,
        metrics=dict(metrics),
    )
