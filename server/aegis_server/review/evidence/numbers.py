"""The numbers of each update's evidence, made where the round was judged.

evidence.json is canonical JSON (UTF-8, sorted names, no spaces) and says everything once: what was
judged, what came of it and why, and how the update compares with the round and with what an honest
site would have sent. Other participants are in it as numbers in ascending order, without names or
places. Of the golden rows there are labels and attributions; whoever has the model can work out
values from those, so evidence is as confidential as the golden rows.

Numbers have six significant digits; null stands for one that is not finite.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Parameters
from aegis_learning.rows import Split
from aegis_server.review.case import OF_THE_RUN, Case, Judgement, Ruling, Submission
from aegis_server.review.evidence import attribution
from aegis_server.review.examiners import fingerprint
from aegis_server.review.findings import rows as finding_rows
from aegis_server.review.population import Population

FORMAT = "aegis-review-evidence/1"
_FEATURES_MAX = 200
# Features the attributions of single rows are kept of.
_SWARM_FEATURES = 12
_SCORES_MAX = 500
# Stands for an attribution too large to be compared.
_SIZE_MAX = 1e100


def numbers(case: Case, ruling: Ruling, population: Population) -> Mapping[str, bytes]:
    """Returns evidence.json of each update of the round by its id."""
    context = _Round(case, ruling, population)
    return {
        judgement.update_id: canonical(context.evidence(position))
        for position, judgement in enumerate(ruling.judgements)
    }


def amended(evidence: bytes, ruling: Ruling, judgement: Judgement) -> bytes:
    """Returns evidence with another judgement in it: one that was changed after `numbers`."""
    document = json.loads(evidence)
    return canonical(document | {"judgement": _judgement(judgement, ruling.detector)})


def canonical(document: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a document, equal for equal ones."""
    text = json.dumps(
        document, allow_nan=False, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode()


def digest_of(rows: Split) -> bytes:
    """Returns the SHA-256 of rows: features as little-endian float32, then labels as int64."""
    digest = hashlib.sha256(np.ascontiguousarray(rows.x, "<f4").tobytes())
    digest.update(np.ascontiguousarray(rows.y, "<i8").tobytes())
    return digest.digest()


class _Round:
    """What the updates of a round share."""

    def __init__(self, case: Case, ruling: Ruling, population: Population) -> None:
        self._case = case
        self._ruling = ruling
        self._population = population
        self._probed = fingerprint.probes(population.golden.y)
        self._probe = population.golden.take(self._probed)

    def evidence(self, position: int) -> dict[str, Any]:
        """Returns the document of the update at this position."""
        case, ruling = self._case, self._ruling
        judgement = ruling.judgements[position]
        with np.errstate(all="ignore"):
            model = self._population.moved(self._population.matrix[position])
        return {
            "format": FORMAT,
            "update": _update(case.submissions[position]),
            "round": {
                "number": case.round,
                "updates": len(case.submissions),
                "warming_up": ruling.warming_up,
                "fallback": ruling.fallback,
                "why": ruling.why,
            },
            "model": {
                "family": case.family.name,
                "widths": list(case.family.widths),
                "base_sha256": hashlib.sha256(case.base).hexdigest(),
            },
            "golden": {"rows": len(case.golden), "sha256": digest_of(case.golden).hex()},
            "judgement": _judgement(judgement, ruling.detector),
            "population": {"scores": self._scores, "score": rounded(judgement.score)},
            "features": self._features(judgement),
            "confusion": {
                "base": self._confusion_base,
                "update": self._confusion(model),
                "median": self._confusion_median,
            },
            "layers": self._layers(position),
            **self._attributions(model),
        }

    @cached_property
    def _scores(self) -> list[float | None]:
        scores = np.sort([each.score for each in self._ruling.judgements])
        if len(scores) > _SCORES_MAX:
            scores = scores[np.linspace(0, len(scores) - 1, _SCORES_MAX).round().astype(int)]
        return _listed(scores)

    def _features(self, judgement: Judgement) -> dict[str, Any]:
        """Returns each number the detector saw, beside the round's median of it."""
        return {
            name: {
                "value": rounded(value),
                "median": rounded(
                    np.median([each.features.get(name, np.nan) for each in self._ruling.judgements])
                ),
            }
            for name, value in judgement.features.items()
            if not name.startswith(OF_THE_RUN)
        }

    @cached_property
    def _confusion_base(self) -> list[list[int]]:
        return self._confusion(self._population.base)

    @cached_property
    def _confusion_median(self) -> list[list[int]]:
        return self._confusion(self._population.moved(self._population.median))

    def _confusion(self, model: Parameters) -> list[list[int]]:
        """Returns how many golden rows of each class (down) get which answer (across)."""
        golden, classes = self._population.golden, self._case.family.classes
        with np.errstate(all="ignore"):
            answers = np.nan_to_num(self._case.family.logits(model, golden.x)).argmax(axis=1)
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (golden.y, answers), 1)
        return [[int(count) for count in row] for row in counts]

    @cached_property
    def _layer_norms(self) -> dict[str, NDArray[np.float64]]:
        """Lengths of each tensor of each update, shape (n,), by its name."""
        return {
            name: np.array(
                [np.linalg.norm(each[name].astype(np.float64)) for each in self._population.updates]
            )
            for name in sorted(self._case.family.shapes)
        }

    def _layers(self, position: int) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "norm": rounded(norms[position]),
                # Least, first quartile, median, third quartile, most.
                "round": _listed(np.quantile(norms, [0, 0.25, 0.5, 0.75, 1])),
            }
            for name, norms in self._layer_norms.items()
        ]

    @cached_property
    def _reference(self) -> NDArray[np.float64]:
        """What the rows' features count for after an honest update made of the golden rows."""
        return self._explained(self._population.moved(self._population.root))

    def _explained(self, model: Parameters) -> NDArray[np.float64]:
        return attribution.attributions(self._case.family, model, self._probe.x)

    def _attributions(self, model: Parameters) -> dict[str, Any]:
        ours, reference = self._explained(model), self._reference
        size = attribution.importance(ours)
        size_reference = attribution.importance(reference)
        weight = _shares(size.sum(axis=1)) + _shares(size_reference.sum(axis=1))
        features = np.argsort(-weight, kind="stable")[:_FEATURES_MAX]
        swarm = features[:_SWARM_FEATURES]
        own = self._probe.y
        return {
            "attribution": {
                "method": "expected gradients",
                "rows": len(own),
                "features_left_out": len(weight) - len(features),
                "cosine": rounded(attribution.cosine(ours, reference)),
                "cosine_by_class": [
                    rounded(attribution.cosine(ours[:, :, c], reference[:, :, c]))
                    for c in range(self._case.family.classes)
                ],
                "features": [int(each) for each in features],
                "update": _listed(size[features]),
                "reference": _listed(size_reference[features]),
            },
            # Towards the row's own class: above 0 speaks for the right answer.
            "probe": {
                "positions": [int(each) for each in self._probed],
                "labels": [int(each) for each in own],
                "features": [int(each) for each in swarm],
                "update": _listed(_toward(ours, own)[:, swarm]),
                "reference": _listed(_toward(reference, own)[:, swarm]),
            },
        }


def rounded(value: float) -> float | None:
    """Returns a number with six significant digits, None for one that is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _listed(values: NDArray[np.float64]) -> list[Any]:
    if values.ndim == 1:
        return [rounded(value) for value in values]
    return [_listed(row) for row in values]


def _toward(values: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    own: NDArray[np.float64] = values[np.arange(len(labels)), :, labels]
    return own


def _update(submission: Submission) -> dict[str, Any]:
    return {
        "update_id": submission.update_id,
        "participant": submission.participant,
        "sha256": hashlib.sha256(submission.data).hexdigest(),
        "size_bytes": len(submission.data),
    }


def _judgement(judgement: Judgement, detector: str) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict.value,
        "score": rounded(judgement.score),
        "false_positive_rate": rounded(judgement.false_positive_rate),
        "detector": detector,
        "findings": _exact(finding_rows(judgement.findings)),
        "would_change": list(judgement.would_change),
    }


def _exact(findings: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Returns findings as they are, but for numbers that JSON has not."""
    return [
        {name: rounded(value) if isinstance(value, float) else value for name, value in row.items()}
        for row in findings
    ]


def _shares(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.nan_to_num(sizes, posinf=_SIZE_MAX).clip(max=_SIZE_MAX)
    shares: NDArray[np.float64] = finite / (finite.sum() or 1)
    return shares
