"""DownloadEvidence: values to wire, for ReviewService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis.serving.deeds import Deeds
from aegis.serving.doors import current_call
from aegis.v1 import review_pb2
from aegis_server.review.evidence.downloads import Bundles

_CHUNK = 64 * 1024


async def download(
    bundles: Bundles, deeds: Deeds, request: review_pb2.DownloadEvidenceRequest
) -> AsyncIterator[review_pb2.DownloadEvidenceResponse]:
    """Yields what the bundle is, then its bytes; one that is being made outlives its caller."""
    bundle = await deeds.finish(bundles.get(request.update_id, current_call()))
    header = review_pb2.DownloadEvidenceResponse.Header(
        sha256=bundle.sha256, size_bytes=len(bundle.data)
    )
    yield review_pb2.DownloadEvidenceResponse(header=header)
    for start in range(0, len(bundle.data), _CHUNK):
        yield review_pb2.DownloadEvidenceResponse(chunk=bundle.data[start : start + _CHUNK])
