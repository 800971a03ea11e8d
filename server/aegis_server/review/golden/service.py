"""GoldenSetService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis.errors import AegisError, FieldViolation, Internal, InvalidArgument, Unavailable
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import golden_set_pb2 as pb
from aegis.v1 import golden_set_pb2_grpc
from aegis_server.access import Access, Needs
from aegis_server.review.golden.beside import Beside
from aegis_server.review.golden.comparing import Tried
from aegis_server.review.golden.records import RESOURCE, id_of
from aegis_server.review.golden.sets import Announced, GoldenSets
from aegis_server.review.golden.store import StoredSet


class GoldenSetService(golden_set_pb2_grpc.GoldenSetServiceServicer):
    """Takes rows in and shows everything about them but themselves."""

    def __init__(self, golden: GoldenSets, beside: Beside, access: Access, deeds: Deeds) -> None:
        self._golden = golden
        self._access = access
        self._beside = beside
        self._deeds = deeds

    async def CreateGoldenSet(
        self, request_iterator: AsyncIterator[pb.CreateGoldenSetRequest], context: Context
    ) -> pb.CreateGoldenSetResponse:
        """A stream that breaks off leaves nothing behind."""
        by = current_call()
        parts = aiter(request_iterator)
        announced = await _announced(parts)
        try:
            await self._golden.expect(announced)
            data = await _data(parts, announced.size_bytes)
            stored = await self._deeds.finish(self._golden.create(announced, data, by))
        except (Unavailable, Internal):
            raise  # our fault, not a verdict on what was sent
        except AegisError as refusal:
            await self._golden.refused(announced, by, refusal)
            raise
        return pb.CreateGoldenSetResponse(golden_set=_message(stored))

    async def FreezeGoldenSet(
        self, request: pb.FreezeGoldenSetRequest, context: Context
    ) -> pb.FreezeGoldenSetResponse:
        """From a draft to something that can be promoted."""
        deed = self._golden.freeze(request.golden_set_id, current_call())
        return pb.FreezeGoldenSetResponse(golden_set=_message(await self._deeds.finish(deed)))

    async def PromoteGoldenSet(
        self, request: pb.PromoteGoldenSetRequest, context: Context
    ) -> pb.PromoteGoldenSetResponse:
        """In use from the next round on."""
        by = current_call()
        permit = self._access.permit(by, Needs(RESOURCE, "promote"))
        deed = self._golden.promote(request.golden_set_id, request.reason, by, permit=permit)
        return pb.PromoteGoldenSetResponse(golden_set=_message(await self._deeds.finish(deed)))

    async def CompareGoldenSets(
        self, request: pb.CompareGoldenSetsRequest, context: Context
    ) -> pb.CompareGoldenSetsResponse:
        """Two versions of one data set."""
        one, other, found = await self._beside.compare(
            request.golden_set_id, other_id=request.other_id, run_id=request.run_id
        )
        return pb.CompareGoldenSetsResponse(
            golden_set=_message(one),
            other=_message(other),
            rows_in_common=found.rows_in_common,
            differences=[
                pb.CompareGoldenSetsResponse.Difference(feature=name, distance=distance)
                for name, distance in found.distances.items()
            ],
            tried=_tried(found.one),
            other_tried=_tried(found.other),
        )

    async def GetGoldenSet(
        self, request: pb.GetGoldenSetRequest, context: Context
    ) -> pb.GetGoldenSetResponse:
        """One version."""
        found = await self._golden.get(request.golden_set_id)
        return pb.GetGoldenSetResponse(golden_set=_message(found))

    async def ListGoldenSets(
        self, request: pb.ListGoldenSetsRequest, context: Context
    ) -> pb.ListGoldenSetsResponse:
        """Newest first."""
        size, query = page_size(request.page_size), ("golden-sets", request.dataset)
        before = _position(decode_token(request.page_token, *query))
        found = await self._golden.page(dataset=request.dataset, before=before, limit=size)
        token = ""
        if len(found) == size:
            last = found[-1]
            at = last.created_at.isoformat() if last.created_at else "-infinity"
            token = encode_token(f"{at} {last.dataset} {last.version}", *query)
        return pb.ListGoldenSetsResponse(
            golden_sets=[_message(each) for each in found], next_page_token=token
        )


async def _announced(parts: AsyncIterator[pb.CreateGoldenSetRequest]) -> Announced:
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise _bad("header", "must come first")
    header = first.header
    return Announced(header.dataset, header.description, header.sha256, header.size_bytes)


async def _data(parts: AsyncIterator[pb.CreateGoldenSetRequest], size_bytes: int) -> bytes:
    """Reads the chunks; the announced size, checked before, is all the memory they can take."""
    data = bytearray()
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise _bad("header", "must come once, then chunks only")
        if not part.chunk:
            raise _bad("chunk", "must not be empty")
        data += part.chunk
        if len(data) > size_bytes:
            raise InvalidArgument(
                "DIGEST_MISMATCH", f"more bytes came than the announced {size_bytes}"
            )
    return bytes(data)


def _bad(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])


def _position(token: int | str | None) -> tuple[str, str, int] | None:
    if token is None:
        return None
    try:
        at, dataset, version = str(token).split(" ")
        return at, dataset, int(version)
    except ValueError as error:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token") from error


def _tried(tried: Tried | None) -> pb.CompareGoldenSetsResponse.Tried | None:
    if tried is None:
        return None
    return pb.CompareGoldenSetsResponse.Tried(accuracy=tried.accuracy, loss=tried.loss)


def _message(golden: StoredSet) -> pb.GoldenSet:
    message = pb.GoldenSet(
        golden_set_id=id_of(golden),
        dataset=golden.dataset,
        version=golden.version,
        state=pb.GoldenSet.State.Value(f"STATE_{golden.state.upper()}"),
        sha256=golden.sha256,
        rows=golden.row_count,
        class_counts=golden.class_counts,
        description=golden.description,
        created_by=golden.created_by,
        promoted_by=golden.promoted_by,
    )
    if golden.created_at is not None:
        message.create_time.FromDatetime(golden.created_at)
    if golden.promoted_at is not None:
        message.promote_time.FromDatetime(golden.promoted_at)
    return message
