"""What is governed in the review: golden sets and detectors."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from aegis.serving.port import Port
from aegis.v1 import detector_pb2_grpc, golden_set_pb2_grpc
from aegis_server.access import Access
from aegis_server.checkpoints.models import Models
from aegis_server.entrance import Part
from aegis_server.foundation import Base
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.detectors.current import Current
from aegis_server.review.detectors.detectors import Detectors
from aegis_server.review.detectors.jobs import Jobs
from aegis_server.review.detectors.promoting import Promotion
from aegis_server.review.detectors.service import DetectorService
from aegis_server.review.detectors.watching import Watch
from aegis_server.review.golden.beside import Beside
from aegis_server.review.golden.service import GoldenSetService
from aegis_server.review.golden.sets import GoldenSets


def serve_governed(
    base: Base, port: Port, datasets: Datasets, *, registry: CollectorRegistry
) -> list[Part]:
    """Serves GoldenSetService and DetectorService; returns what must run while they do."""
    access = Access(base.decisions, base.audit)
    golden = GoldenSets(base.database, base.audit, base.blobs, datasets, clock=base.clock)
    beside = Beside(golden, datasets, Models(base.database, base.blobs), base.blobs)
    golden_set_pb2_grpc.add_GoldenSetServiceServicer_to_server(
        GoldenSetService(golden, beside, access, base.deeds), port.server
    )
    detectors = Detectors(base.database, base.audit, clock=base.clock)
    promotion = Promotion(base.database, base.audit, clock=base.clock)
    detector_pb2_grpc.add_DetectorServiceServicer_to_server(
        DetectorService(detectors, promotion, access, base.deeds), port.server
    )
    jobs = Jobs(base.database, base.audit, base.blobs)
    current = Current(base.database, base.blobs, clock=base.clock)
    watch = Watch(base.database, promotion, current, registry=registry)
    return [jobs.run(), watch.run()]
