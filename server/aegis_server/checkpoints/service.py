"""ModelService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis.errors import InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import model_pb2, model_pb2_grpc, review_pb2
from aegis_server.checkpoints.models import Model, Models, Part
from aegis_server.checkpoints.releasing import Releases

_CHUNK = 256 * 1024


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Shows models and hands them out."""

    def __init__(self, models: Models, releases: Releases, deeds: Deeds) -> None:
        self._models = models
        self._releases = releases
        self._deeds = deeds

    async def GetModel(
        self, request: model_pb2.GetModelRequest, context: Context
    ) -> model_pb2.GetModelResponse:
        """See the rpc's comment."""
        model = await self._models.get(request.model_id, run_id=request.run_id)
        return model_pb2.GetModelResponse(model=_model(model))

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: Context
    ) -> model_pb2.ListModelsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        query = ("models", request.run_id)
        before = _position(decode_token(request.page_token, *query))
        models = await self._models.page(run_id=request.run_id, before=before, limit=size)
        token = ""
        if len(models) == size:
            last = models[-1].stored
            position = f"{last.created_at.isoformat()} {last.run_id} {last.round}"
            token = encode_token(position, *query)
        return model_pb2.ListModelsResponse(
            models=[_model(each) for each in models], next_page_token=token
        )

    async def GetModelLineage(
        self, request: model_pb2.GetModelLineageRequest, context: Context
    ) -> model_pb2.GetModelLineageResponse:
        """From the model back to the first that is recorded."""
        models = await self._models.lineage(
            request.model_id, run_id=request.run_id, limit=request.limit
        )
        return model_pb2.GetModelLineageResponse(models=[_model(each) for each in models])

    async def DownloadModel(
        self, request: model_pb2.DownloadModelRequest, context: Context
    ) -> AsyncIterator[model_pb2.DownloadModelResponse]:
        """What the model is, then its bytes."""
        model, pieces = await self._models.download(
            request.model_id, run_id=request.run_id, offset=request.offset
        )
        yield model_pb2.DownloadModelResponse(model=_model(model))
        async for piece in pieces:
            for start in range(0, len(piece), _CHUNK):
                yield model_pb2.DownloadModelResponse(chunk=piece[start : start + _CHUNK])

    async def ReleaseModel(
        self, request: model_pb2.ReleaseModelRequest, context: Context
    ) -> model_pb2.ReleaseModelResponse:
        """It may leave from now on."""
        model = await self._deeds.finish(
            self._releases.release(
                request.model_id, current_call(), run_id=request.run_id, reason=request.reason
            )
        )
        return model_pb2.ReleaseModelResponse(model=_model(model))


def _position(token: int | str | None) -> tuple[str, str, int] | None:
    if token is None:
        return None
    try:
        at, run_id, number = str(token).split(" ")
        return at, run_id, int(number)
    except ValueError as error:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token") from error


def _model(model: Model) -> model_pb2.Model:
    stored, plan = model.stored, model.plan
    message = model_pb2.Model(
        model_id=stored.model_sha256.hex(),
        run_id=stored.run_id,
        round=stored.round,
        parent_id=(stored.parent_sha256 or b"").hex(),
        size_bytes=stored.size_bytes,
        dataset=plan.dataset,
        family=plan.model,
        accuracy=stored.accuracy,
        loss=stored.loss,
        epsilon=stored.epsilon,
        ingredients=[_ingredient(part) for part in model.parts],
        actor=stored.actor,
        policy_revision=stored.policy_revision,
        rule_id=stored.rule_id,
        code_version=stored.code_version,
        plan_sha256=model.plan_sha256.hex(),
        key_id=stored.key_id,
        other_runs=model.other_runs,
        blocked="" if stored.released_by else stored.blocked,
        released_by=stored.released_by,
        release_reason=stored.release_reason,
    )
    message.create_time.FromDatetime(stored.created_at)
    return message


def _ingredient(part: Part) -> model_pb2.Ingredient:
    message = model_pb2.Ingredient(
        participant=part.participant,
        update_id=part.update_id,
        update_sha256=part.update_sha256,
        examples=part.examples,
    )
    if part.judged is not None:
        message.verdict = review_pb2.Update.Verdict.Value(f"VERDICT_{part.judged.verdict.upper()}")
        message.score = part.judged.score
        if part.judged.reviewed_at is not None:
            message.review_time.FromDatetime(part.judged.reviewed_at)
    return message
