"""Models: what each was made of, and its bytes.

A model is named by its digest. The same bytes may come out of several runs (equal plans begin with
equal models): then the newest is meant unless a run is named, and the others are told.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import metadata

from aegis.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from aegis.serving.database import Connection, Database
from aegis.v1 import training_pb2
from aegis_server.checkpoints import store
from aegis_server.checkpoints.store import Judged, StoredModel
from aegis_server.objects.blobs import BlobStore

DIGITS = 64
_OTHERS_MAX = 20
# A run has at most 500 rounds; each is a link of the chain.
_LINKS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ingredient:
    """An update that is part of a model; without review it has no id."""

    participant: str
    update_id: str
    examples: int


@dataclass(frozen=True, slots=True)
class Part:
    """An ingredient as it is kept, and what the review made of it, if there was one."""

    participant: str
    update_id: str
    update_sha256: str
    examples: int
    judged: Judged | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model, what it was made of, and which other runs made the very same bytes."""

    stored: StoredModel
    parts: tuple[Part, ...] = ()
    other_runs: tuple[str, ...] = ()

    @property
    def plan(self) -> training_pb2.RunPlan:
        """Of its run, parsed."""
        return training_pb2.RunPlan.FromString(self.stored.plan)

    @property
    def plan_sha256(self) -> bytes:
        """Equal plans have equal bytes, and so one digest."""
        return hashlib.sha256(self.stored.plan).digest()


async def record(
    connection: Connection,
    *,
    run_id: str,
    round: int,  # noqa: A002
    model_sha256: bytes,
    parent_sha256: bytes | None,
    size_bytes: int,
    key_id: str,
    at: datetime,
    ingredients: Iterable[Ingredient],
    blocked: str = "",
) -> None:
    """Records where a model comes from, in the transaction that stores its round.

    `blocked` says why it may not leave.
    """
    parts = list(ingredients)
    known = await store.judged(connection, [part.update_id for part in parts if part.update_id])
    await store.insert_model(
        connection,
        model_sha256=model_sha256,
        run_id=run_id,
        round=round,
        parent_sha256=parent_sha256,
        size_bytes=size_bytes,
        created_at=at,
        code_version=code_version(),
        ingredients=[
            {
                "participant": part.participant,
                "update_id": part.update_id,
                "update_sha256": (
                    known[part.update_id].sha256.hex() if part.update_id in known else ""
                ),
                "examples": part.examples,
            }
            for part in parts
        ],
        key_id=key_id,
        blocked=blocked,
    )


@cache
def code_version() -> str:
    """Returns the version of the programs that are installed here."""
    try:
        return metadata.version("aegis-control-plane")
    except metadata.PackageNotFoundError:
        return "unknown"


class Models:
    """What `ModelService` answers from."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def get(self, model_id: str, *, run_id: str = "") -> Model:
        """Returns a model by its digest in hex, or the first digits of it.

        Raises `NotFound`, or `InvalidArgument` (FIELD_INVALID) for digits that fit several.
        """
        async with self._database.transaction() as connection:
            return await _find(connection, model_id, run_id)

    async def page(
        self, *, run_id: str, before: tuple[str, str, int] | None, limit: int
    ) -> list[Model]:
        """Returns models, newest first."""
        async with self._database.transaction() as connection:
            found = await store.models_before(connection, run_id=run_id, before=before, limit=limit)
            return await _with_parts(connection, found)

    async def lineage(self, model_id: str, *, run_id: str = "", limit: int = 0) -> list[Model]:
        """Returns the model and those before it, as far as they are recorded; raises as `get`."""
        async with self._database.transaction() as connection:
            model = await _find(connection, model_id, run_id)
            found = await store.models_up_to(
                connection,
                model.stored.run_id,
                model.stored.round,
                limit=min(limit or _LINKS_MAX, _LINKS_MAX),
            )
            return [model, *await _with_parts(connection, _chain(found)[1:])]

    async def download(
        self, model_id: str, *, run_id: str = "", offset: int = 0
    ) -> tuple[Model, AsyncIterator[bytes]]:
        """Returns a model and its bytes from an offset on.

        Raises as `get`, `FailedPrecondition` (MODEL_BLOCKED), and `InvalidArgument` (FIELD_INVALID)
        for an offset beyond the end; the bytes raise `DataLoss` (DATA_DAMAGED) before anything else
        than they are is given out.
        """
        async with self._database.transaction() as connection:
            model = await _find(connection, model_id, run_id)
            blocked = await store.blocked_round(connection, model.stored.model_sha256)
        if blocked is not None:
            raise FailedPrecondition(
                "MODEL_BLOCKED",
                "the model seems to hold a backdoor, and nobody has released it",
                run_id=blocked[0],
                round=str(blocked[1]),
            )
        if offset > model.stored.size_bytes:
            problem = f"must not be beyond the end, {model.stored.size_bytes}"
            raise InvalidArgument(
                "FIELD_INVALID",
                f"offset {problem}",
                violations=[FieldViolation("offset", problem)],
            )
        return model, self._blobs.pieces(model.stored.model_sha256, offset)


async def _find(connection: Connection, model_id: str, run_id: str) -> Model:
    low, high = (bytes.fromhex(model_id.ljust(DIGITS, digit)) for digit in "0f")
    digests = await store.digests_between(connection, low, high, run_id=run_id, limit=2)
    if not digests:
        raise NotFound("RESOURCE_NOT_FOUND", f"there is no model {model_id}", resource=model_id)
    if len(digests) > 1:
        problem = "fits more than one model: give more digits"
        raise InvalidArgument(
            "FIELD_INVALID", f"model_id {problem}", violations=[FieldViolation("model_id", problem)]
        )
    found = await store.models_of_digest(
        connection, digests[0], run_id=run_id, limit=_OTHERS_MAX + 1
    )
    (model,) = await _with_parts(connection, found[:1])
    others = dict.fromkeys(each.run_id for each in found[1:] if each.run_id != found[0].run_id)
    return Model(model.stored, model.parts, tuple(others))


def _chain(found: Sequence[StoredModel]) -> list[StoredModel]:
    """Returns the models as far as each is the parent of the one before it."""
    chain = list(found[:1])
    for each in found[1:]:
        if chain[-1].parent_sha256 != each.model_sha256:
            break
        chain.append(each)
    return chain


async def _with_parts(connection: Connection, found: Sequence[StoredModel]) -> list[Model]:
    ids = [str(part["update_id"]) for each in found for part in each.ingredients]
    known = await store.judged(connection, [each for each in ids if each])
    return [
        Model(
            each,
            tuple(
                Part(
                    participant=str(part["participant"]),
                    update_id=str(part["update_id"]),
                    update_sha256=str(part["update_sha256"]),
                    examples=int(str(part["examples"])),
                    judged=known.get(str(part["update_id"])),
                )
                for part in each.ingredients
            ),
        )
        for each in found
    ]
