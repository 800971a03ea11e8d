"""Training in the control plane: runs, coordinators, privacy, models."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from aegis.serving.port import Port
from aegis.v1 import model_pb2_grpc, privacy_pb2_grpc, training_pb2_grpc
from aegis_server.checkpoints.models import Models
from aegis_server.checkpoints.releasing import Releases
from aegis_server.checkpoints.service import ModelService
from aegis_server.entrance import Part
from aegis_server.foundation import Base, place_of
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.participants.registry import Registry
from aegis_server.privacy.books import Books
from aegis_server.privacy.ledger import Ledger
from aegis_server.privacy.service import PrivacyService
from aegis_server.relay import Relay
from aegis_server.settings import Settings
from aegis_server.training.budget import Budget
from aegis_server.training.coordination import CoordinatorService
from aegis_server.training.coordinators import Coordinators, CoordinatorSettings
from aegis_server.training.metrics.combining import RunMetrics
from aegis_server.training.metrics.counting import Counts
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs
from aegis_server.training.service import TrainingService
from aegis_server.training.states import Changes
from aegis_server.training.superlink.supervisor import Credentials, SuperLinks

# On this machine, by all its workers.
_RUNS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Learning:
    """What supervises coordinators once we can be reached."""

    base: Base
    progress: Progress
    changes: Changes

    def coordinators(self, address: str) -> Part:
        """Returns what must run: it starts and watches coordinators that call `address`."""
        coordinators = Coordinators(
            self.base.database,
            self.progress,
            _coordinator_settings(self.base.settings),
            clock=self.base.clock,
            changes=self.changes,
            at_once=max(1, _RUNS_AT_ONCE // self.base.settings.workers),
        )
        return coordinators.run(_reachable(address))


def serve_learning(
    base: Base,
    port: Port,
    *,
    relay: Relay,
    datasets: Datasets,
    registry: CollectorRegistry,
) -> Learning:
    """Serves runs, coordinators, the privacy ledger and models."""
    changes, ledger = Changes(), Ledger()
    budget = Budget(ledger)
    runs = Runs(
        base.database,
        base.audit,
        base.decisions,
        clock=base.clock,
        changes=changes,
        budget=budget,
        find=datasets.find,
    )
    progress = Progress(
        base.database,
        base.audit,
        base.blobs,
        clock=base.clock,
        changes=changes,
        budget=budget,
        find=datasets.find,
        counts=Counts(registry),
    )
    storage = base.settings.storage
    metrics = RunMetrics(
        base.database, place_of(storage.metrics, storage) if storage.metrics else None
    )
    training_pb2_grpc.add_TrainingServiceServicer_to_server(
        TrainingService(runs, base.deeds, metrics), port.server
    )
    training_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        CoordinatorService(progress, base.deeds, relay.tasks, relay.news), port.server
    )
    privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(
        PrivacyService(Books(base.database, base.audit, ledger, clock=base.clock), base.deeds),
        port.server,
    )
    models = Models(base.database, base.blobs)
    model_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(
            models,
            Releases(base.database, models, base.audit, clock=base.clock),
            base.deeds,
        ),
        port.server,
    )
    return Learning(base, progress, changes)


def superlinks(settings: Settings, participants: Registry) -> list[Part]:
    """Returns what keeps the SuperLink for sites that run Flower, where there is one."""
    if settings.flower is None or settings.participants_certificate is None:
        return []
    credentials = Credentials(
        certificate=settings.tls.certificate,
        key=settings.tls.key,
        roots=settings.participants_certificate,
        trust_domain=settings.trust_domain,
    )
    return [SuperLinks(settings.flower, credentials, participants.enrolled).run()]


def _coordinator_settings(settings: Settings) -> CoordinatorSettings:
    folder = settings.data_dir / "coordinators"
    folder.mkdir(parents=True, exist_ok=True)
    return CoordinatorSettings(
        certificate=settings.coordinator_certificate,
        key=settings.coordinator_key,
        roots=settings.tls.roots,
        folder=folder,
        superlink=settings.flower.folder if settings.flower is not None else None,
    )


def _reachable(address: str) -> str:
    """Returns how coordinators, on this machine, call a port that may listen everywhere."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else address  # noqa: S104
