"""Participants in the control plane: who they are, what they hold, and what runs are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aegis.serving.port import Port
from aegis.v1 import dataset_pb2_grpc, participant_pb2_grpc
from aegis_server.entrance import Part, throttle_of
from aegis_server.foundation import Base
from aegis_server.identity.directory import Directory
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.participants.datasets.service import DatasetService
from aegis_server.participants.enrolment import Enrolment
from aegis_server.participants.holdings.holdings import Holdings
from aegis_server.participants.participants import Participants
from aegis_server.participants.registry import KIND, Registry
from aegis_server.participants.service import Doorway, ParticipantService, Streams
from aegis_server.participants.store import CHANNEL
from aegis_server.policy.following import Following
from aegis_server.workers import Workers


@dataclass(frozen=True, slots=True)
class Participation:
    """What other rooms ask about participants, and what must run while we serve them."""

    datasets: Datasets
    parts: tuple[Part, ...]


def held_roles_of(directory: Directory, participants: Registry) -> Callable[[str], tuple[str, ...]]:
    """Returns what says which roles a subject holds beside the rules.

    A participant holds its role by being enrolled, whatever anybody else says of it.
    """

    def held_roles(subject: str) -> tuple[str, ...]:
        if subject.startswith(KIND):
            return participants.held_roles(subject)
        return directory.held_roles(subject)

    return held_roles


def reachable(address: str) -> str:
    """Returns where a site reaches a bound address; nothing when it is bound everywhere."""
    host = address.rpartition(":")[0].strip("[]")
    return "" if host in ("", "0.0.0.0", "::") else address  # noqa: S104


def serve_participants(
    base: Base, port: Port, workers: Workers, *, streams: Callable[[Datasets], Streams]
) -> Participation:
    """Serves ParticipantService and DatasetService; `streams` makes who attends to participants."""
    settings = base.settings
    datasets = Datasets(base.database, base.audit, base.blobs, workers, clock=base.clock)
    holdings = Holdings(base.database, base.audit, schema_of=datasets.schema, clock=base.clock)
    members = Participants(
        base.database,
        base.audit,
        base.participants,
        authority=base.authority,
        known_dataset=datasets.known,
        clock=base.clock,
    )

    enrolment = Enrolment(
        base.database,
        base.audit,
        base.participants,
        authority=base.authority,
        trust_domain=settings.trust_domain,
        throttle=throttle_of(base),
        clock=base.clock,
    )

    def doorway() -> Doorway:
        return Doorway(
            settings.advertise or reachable(port.address),
            settings.token_advertise or reachable(port.token_address),
        )

    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(
        ParticipantService(
            members,
            enrolment,
            holdings,
            streams(datasets),
            base.deeds,
            doorway=doorway,
            roots=settings.tls.roots,
            trust_domain=settings.trust_domain,
            clock=base.clock,
        ),
        port.server,
    )
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(
        DatasetService(datasets, holdings, base.deeds), port.server
    )
    hearing = Following(settings.database_url, base.participants.refresh, channel=CHANNEL)
    return Participation(datasets, (base.participants.run(), hearing.run()))
