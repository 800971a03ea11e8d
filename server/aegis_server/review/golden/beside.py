"""Versions side by side, for whoever is about to promote one."""

from __future__ import annotations

import asyncio

from aegis.errors import FieldViolation, InvalidArgument, NotFound
from aegis_learning import parameters
from aegis_server.checkpoints.models import Models
from aegis_server.objects.blobs import BlobStore
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.golden.comparing import Comparison, Sides, Trial, compare
from aegis_server.review.golden.sets import ACTIVE, GoldenSets
from aegis_server.review.golden.store import StoredSet


class Beside:
    """Compares versions, and tries a run's newest model on both."""

    def __init__(
        self, golden: GoldenSets, datasets: Datasets, models: Models, blobs: BlobStore
    ) -> None:
        self._golden = golden
        self._datasets = datasets
        self._models = models
        self._blobs = blobs

    async def compare(
        self, golden_set_id: str, *, other_id: str = "", run_id: str = ""
    ) -> tuple[StoredSet, StoredSet, Comparison]:
        """Returns both and how far they are apart; without `other_id` the other is the one in use.

        Raises `NotFound`, or `InvalidArgument` (FIELD_INVALID) for two data sets.
        """
        one = await self._golden.get(golden_set_id)
        other = await self._golden.get(other_id or f"{one.dataset}@{ACTIVE}")
        if one.dataset != other.dataset:
            raise _invalid("other_id", f"is of {other.dataset}, not of {one.dataset}")
        trial = await self._trial(run_id, one.dataset) if run_id else None
        schema = await self._datasets.schema(one.dataset)
        sides = Sides(schema, await self._golden.rows(one), await self._golden.rows(other), trial)
        return one, other, await asyncio.to_thread(compare, sides)

    async def _trial(self, run_id: str, dataset: str) -> Trial:
        found = await self._models.page(run_id=run_id, before=None, limit=1)
        if not found:
            raise NotFound("RESOURCE_NOT_FOUND", f"there is no model of {run_id}", resource=run_id)
        plan = found[0].plan
        if plan.dataset != dataset:
            raise _invalid("run_id", f"is about {plan.dataset}, not about {dataset}")
        family = (await self._datasets.find(dataset)).family(plan.model)
        data = await self._blobs.get(found[0].stored.model_sha256)
        return Trial(family, parameters.decode(data, family.shapes))


def _invalid(field: str, problem: str) -> InvalidArgument:
    violations = [FieldViolation(field, problem)]
    return InvalidArgument("FIELD_INVALID", f"{field} {problem}", violations=violations)
