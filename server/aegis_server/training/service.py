"""TrainingService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.comparing import differences
from aegis_server.training.messages import full_message, round_message, run_message
from aegis_server.training.metrics.combining import RunMetrics
from aegis_server.training.metrics.messages import metrics_message
from aegis_server.training.runs import Runs
from aegis_server.training.views import RunView


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Creates, starts, shows, pauses and stops runs."""

    def __init__(self, runs: Runs, deeds: Deeds, metrics: RunMetrics) -> None:
        self._runs = runs
        self._deeds = deeds
        self._metrics = metrics

    async def CreateRun(
        self, request: training_pb2.CreateRunRequest, context: Context
    ) -> training_pb2.CreateRunResponse:
        """Recorded, not started."""
        view = await self._deeds.finish(
            self._runs.create(
                request_id=UUID(request.request_id),
                plan=request.plan,
                actor=current_call().caller.subject,
            )
        )
        return training_pb2.CreateRunResponse(run=run_message(view))

    async def StartRun(
        self, request: training_pb2.StartRunRequest, context: Context
    ) -> training_pb2.StartRunResponse:
        """See the rpc's comment."""
        if request.HasField("plan") == bool(request.run_id):
            problem = FieldViolation("plan", "exactly one of plan and run_id is needed")
            raise InvalidArgument("FIELD_INVALID", "plan or run_id is needed", violations=[problem])
        actor = current_call().caller.subject
        request_id = UUID(request.request_id)
        deed = (
            self._runs.start_created(request.run_id, request_id=request_id, actor=actor)
            if request.run_id
            else self._runs.start(request_id=request_id, plan=request.plan, actor=actor)
        )
        view = await self._deeds.finish(deed)
        return training_pb2.StartRunResponse(run=run_message(view))

    async def WatchRun(
        self, request: training_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[training_pb2.WatchRunResponse]:
        """Every round, then every change, until the end."""
        async for view in self._runs.watch(request.run_id):
            # Who takes part does not change: GetRun says it once.
            run = run_message(RunView(view.run, view.last))
            for found, participants in view.rounds:
                each = round_message(found, participants)
                yield training_pb2.WatchRunResponse(run=run, round=each)
            if not view.rounds:
                yield training_pb2.WatchRunResponse(run=run)

    async def StopRun(
        self, request: training_pb2.StopRunRequest, context: Context
    ) -> training_pb2.StopRunResponse:
        """After the current round."""
        view = await self._deeds.finish(
            self._runs.stop(
                request.run_id, reason=request.reason, actor=current_call().caller.subject
            )
        )
        return training_pb2.StopRunResponse(run=run_message(view))

    async def PauseRun(
        self, request: training_pb2.PauseRunRequest, context: Context
    ) -> training_pb2.PauseRunResponse:
        """After the current round."""
        view = await self._deeds.finish(
            self._runs.pause(
                request.run_id, reason=request.reason, actor=current_call().caller.subject
            )
        )
        return training_pb2.PauseRunResponse(run=run_message(view))

    async def ResumeRun(
        self, request: training_pb2.ResumeRunRequest, context: Context
    ) -> training_pb2.ResumeRunResponse:
        """Behind the last stored round."""
        view = await self._deeds.finish(
            self._runs.resume(request.run_id, actor=current_call().caller.subject)
        )
        return training_pb2.ResumeRunResponse(run=run_message(view))

    async def CompareRuns(
        self, request: training_pb2.CompareRunsRequest, context: Context
    ) -> training_pb2.CompareRunsResponse:
        """Side by side."""
        views = await self._runs.several(request.run_ids)
        return training_pb2.CompareRunsResponse(
            runs=[full_message(view) for view in views],
            differences=[
                training_pb2.CompareRunsResponse.Difference(field=each.field, values=each.values)
                for each in differences([view.plan for view in views])
            ],
        )

    async def GetRun(
        self, request: training_pb2.GetRunRequest, context: Context
    ) -> training_pb2.GetRunResponse:
        """One run with its rounds."""
        view = await self._runs.get(request.run_id, rounds_after=-1)
        return training_pb2.GetRunResponse(run=full_message(view))

    async def GetRunMetrics(
        self, request: training_pb2.GetRunMetricsRequest, context: Context
    ) -> training_pb2.GetRunMetricsResponse:
        """By participant and by round."""
        # Nobody takes part in round 0, but its model has figures too.
        after = request.after_round or -1
        return metrics_message(await self._metrics.of(request.run_id, after=after))

    async def ListRuns(
        self, request: training_pb2.ListRunsRequest, context: Context
    ) -> training_pb2.ListRunsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        position = decode_token(request.page_token, "runs")
        if isinstance(position, int):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        views = await self._runs.page(before=position, limit=size)
        token = encode_token(views[-1].run.run_id, "runs") if len(views) == size else ""
        return training_pb2.ListRunsResponse(
            runs=[run_message(view) for view in views], next_page_token=token
        )
