"""SHAP's own explainer beside our attributions: two implementations, one question.

Our values are computed with our gradients; `shap` is written by others and looks at the model from
outside: LinearExplainer, exact, for a model without hidden layers, KernelExplainer for the others.
Both explain the same few rows against the same background, so that they should agree closely. What
it may cost is bounded by counting, not by a clock, because equal evidence gives equal bytes. Needs
the extra `explain`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_server.review.evidence.attribution import attributions, cosine, importance
from aegis_server.review.evidence.numbers import rounded
from aegis_server.review.examiners.fingerprint import probes

_ROWS = 10
_FEATURES_SHOWN = 12
# Rows a KernelExplainer puts through the model for one explained row, and in all.
_SAMPLES_MIN, _SAMPLES_MAX = 200, 4096
# Multiplications: about ten seconds on one core.
_COST_MAX = 20_000_000_000


def crosscheck(family: Family, model: Parameters, x: Array, y: NDArray[np.int64]) -> dict[str, Any]:
    """Returns both importances of the strongest inputs and the cosine between all of them.

    Says why instead, under "skipped", where the model is too large or its answers are no numbers.
    """
    rows = x[probes(y, _ROWS)]
    samples = max(_SAMPLES_MIN, 4 * family.features)
    weights = sum(int(np.prod(shape)) for shape in family.shapes.values())
    linear = len(family.widths) == 2
    if not linear and (samples > _SAMPLES_MAX or samples * len(rows) ** 2 * weights > _COST_MAX):
        return {"skipped": "the model is too large for shap's own explainer"}
    if not np.isfinite(_answers(family, model, rows)).all():
        return {"skipped": "the model's answers are not finite"}
    with warnings.catch_warnings(action="ignore"):
        import shap

        found = _linear(model, rows) if linear else _kernel(family, model, rows, samples)
    ours, theirs = importance(attributions(family, model, rows)), importance(found)
    strongest = np.argsort(-ours.sum(axis=1), kind="stable")[:_FEATURES_SHOWN]
    return {
        "explainer": "LinearExplainer" if linear else "KernelExplainer",
        "shap": str(shap.__version__),
        "rows": len(rows),
        "cosine": rounded(cosine(ours, theirs)),
        "features": [int(each) for each in strongest],
        "ours": [rounded(value) for value in ours.sum(axis=1)[strongest]],
        "theirs": [rounded(value) for value in theirs.sum(axis=1)[strongest]],
    }


def _linear(model: Parameters, rows: Array) -> NDArray[np.float64]:
    import shap

    weights = (model["layer1.weight"].astype(float), model["layer1.bias"].astype(float))
    values = shap.LinearExplainer(weights, rows.astype(float)).shap_values(rows.astype(float))
    return np.asarray(values, dtype=np.float64)


def _kernel(family: Family, model: Parameters, rows: Array, samples: int) -> NDArray[np.float64]:
    import shap

    # It draws from numpy's global generator; whoever uses that in this process finds it as it was.
    before = np.random.get_state()
    np.random.seed(0)
    try:
        explainer = shap.KernelExplainer(lambda x: _answers(family, model, x), rows)
        values = explainer.shap_values(rows, nsamples=samples, l1_reg=False, silent=True)
    finally:
        np.random.set_state(before)
    return np.asarray(values, dtype=np.float64)


def _answers(family: Family, model: Parameters, x: NDArray[Any]) -> Array:
    with np.errstate(all="ignore"):
        return family.logits(model, x.astype(np.float32))
