"""DetectorService: wire to values and back."""

from __future__ import annotations

from aegis.errors import InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import detector_pb2 as pb
from aegis.v1 import detector_pb2_grpc
from aegis_server.access import Access, Needs
from aegis_server.review.detectors.detectors import TARGET_FPR, Detectors, Shown, Wanted, shown
from aegis_server.review.detectors.promoting import Floor, Promotion
from aegis_server.review.detectors.records import RESOURCE, Measured


class DetectorService(detector_pb2_grpc.DetectorServiceServicer):
    """Has detectors trained, shows them, and lets them score or decide."""

    def __init__(
        self, detectors: Detectors, promotion: Promotion, access: Access, deeds: Deeds
    ) -> None:
        self._detectors = detectors
        self._access = access
        self._promotion = promotion
        self._deeds = deeds

    async def TrainDetector(
        self, request: pb.TrainDetectorRequest, context: Context
    ) -> pb.TrainDetectorResponse:
        """A job; some server does it."""
        wanted = Wanted(
            request_id=request.request_id,
            dataset=request.dataset,
            target_fpr=request.target_false_positive_rate or TARGET_FPR,
            seed=request.seed,
        )
        deed = self._detectors.train(wanted, current_call())
        return pb.TrainDetectorResponse(detector=_message(await self._deeds.finish(deed)))

    async def GetDetector(
        self, request: pb.GetDetectorRequest, context: Context
    ) -> pb.GetDetectorResponse:
        """One detector."""
        return pb.GetDetectorResponse(detector=_message(await self._detectors.get(request.version)))

    async def ListDetectors(
        self, request: pb.ListDetectorsRequest, context: Context
    ) -> pb.ListDetectorsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        position = decode_token(request.page_token, "detectors")
        if isinstance(position, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        found = await self._detectors.page(before=position, limit=size)
        token = ""
        if len(found) == size:
            token = encode_token(found[-1].stored.seq, "detectors")
        return pb.ListDetectorsResponse(
            detectors=[_message(each) for each in found], next_page_token=token
        )

    async def ShadowDetector(
        self, request: pb.ShadowDetectorRequest, context: Context
    ) -> pb.ShadowDetectorResponse:
        """Scores from the next round on, and decides nothing."""
        deed = self._promotion.shadow(request.version, current_call())
        return pb.ShadowDetectorResponse(detector=_message(shown(await self._deeds.finish(deed))))

    async def PromoteDetector(
        self, request: pb.PromoteDetectorRequest, context: Context
    ) -> pb.PromoteDetectorResponse:
        """Decides from the next round on."""
        by = current_call()
        permit = self._access.permit(by, Needs(RESOURCE, "promote"))
        deed = self._promotion.promote(
            request.version,
            request.reason,
            by,
            permit=permit,
            floor=Floor(request.false_positive_rate_max, request.true_positive_rate_drop_max),
        )
        promoted = await self._deeds.finish(deed)
        return pb.PromoteDetectorResponse(
            detector=_message(shown(promoted.stored)), attacks_compared=promoted.compared
        )

    async def CompareDetectors(
        self, request: pb.CompareDetectorsRequest, context: Context
    ) -> pb.CompareDetectorsResponse:
        """Two detectors, on what both have scored."""
        one, other, both = await self._detectors.compare(request.version, request.other)
        return pb.CompareDetectorsResponse(
            detector=_message(one),
            other=_message(other),
            both_scored=both.scored,
            only_first_rejects=both.only_first_rejects,
            only_second_rejects=both.only_second_rejects,
        )


def _message(found: Shown) -> pb.Detector:
    stored = found.stored
    message = pb.Detector(
        version=stored.version,
        state=pb.Detector.State.Value(f"STATE_{stored.state.upper()}"),
        sha256=found.sha256,
        reason=stored.reason,
        updates=stored.updates,
        rounds=stored.rounds,
        participants=stored.participants,
        measured=[_measured(each) for each in found.measured],
        target_false_positive_rate=stored.target_fpr,
        scored=found.scored,
        observed_rejection_rate=found.rejected / found.scored if found.scored else 0.0,
        progress=stored.progress,
        created_by=stored.created_by,
    )
    message.create_time.FromDatetime(stored.created_at)
    if stored.promoted_at is not None:
        message.promote_time.FromDatetime(stored.promoted_at)
    return message


def _measured(each: Measured) -> pb.Detector.Measured:
    return pb.Detector.Measured(
        attack=each.attack,
        tpr_at_1_fpr=each.tpr_at_1_fpr,
        tpr_at_5_fpr=each.tpr_at_5_fpr,
        auc=each.auc,
        tpr=each.tpr,
        fpr=each.fpr,
    )
