"""DatasetService: wire to values and back."""

from __future__ import annotations

from collections.abc import Sequence

from aegis import schemas
from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.v1 import dataset_pb2 as pb
from aegis.v1 import dataset_pb2_grpc
from aegis_learning.schema import Schema, SchemaError
from aegis_server.participants import wire
from aegis_server.participants.datasets.catalogue import Datasets, Description, Registration
from aegis_server.participants.holdings.holdings import Holdings
from aegis_server.participants.holdings.store import StoredHolding


class DatasetService(dataset_pb2_grpc.DatasetServiceServicer):
    """Registers and shows data sets."""

    def __init__(self, datasets: Datasets, holdings: Holdings, deeds: Deeds) -> None:
        self._datasets = datasets
        self._holdings = holdings
        self._deeds = deeds

    async def RegisterDataset(
        self, request: pb.RegisterDatasetRequest, context: Context
    ) -> pb.RegisterDatasetResponse:
        """Once for ever."""
        asked = Registration(
            name=request.name,
            schema=_schema(request.schema),
            description=request.description,
            provenance=request.provenance,
            consent_basis=request.consent_basis,
            public=request.public,
            evaluation_csv=request.evaluation_csv,
            golden_share=request.golden_share,
        )
        actor = current_call().caller.subject
        stored = await self._deeds.finish(self._datasets.register(asked, actor=actor))
        return pb.RegisterDatasetResponse(dataset=(await self._with_holdings([stored]))[0])

    async def GetDataset(
        self, request: pb.GetDatasetRequest, context: Context
    ) -> pb.GetDatasetResponse:
        """One data set."""
        found = await self._datasets.describe(request.name)
        return pb.GetDatasetResponse(dataset=(await self._with_holdings([found]))[0])

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        """All of them."""
        found = await self._datasets.list()
        return pb.ListDatasetsResponse(datasets=await self._with_holdings(found))

    async def _with_holdings(self, found: Sequence[Description]) -> list[pb.Dataset]:
        viewer = current_call().caller.subject
        held = await self._holdings.of_datasets([each.name for each in found], viewer=viewer)
        return [_dataset(each, held.get(each.name, ())) for each in found]


def _schema(message: pb.Schema) -> Schema:
    try:
        return schemas.schema_of(message)
    except SchemaError as error:
        violation = FieldViolation("schema", str(error))
        raise InvalidArgument(
            "FIELD_INVALID", f"schema: {error}", violations=[violation]
        ) from error


def _dataset(found: Description, held: Sequence[StoredHolding]) -> pb.Dataset:
    message = pb.Dataset(
        name=found.name,
        schema=schemas.message_of(found.schema),
        description=found.description,
        provenance=found.provenance,
        consent_basis=found.consent_basis,
        public=found.public,
        owner=found.owner,
        schema_sha256=found.schema.sha256,
        golden_rows=found.golden_rows,
        test_rows=found.test_rows,
        holdings=map(wire.holding, held),
    )
    if found.created_at is not None:
        message.create_time.FromDatetime(found.created_at)
    return message
