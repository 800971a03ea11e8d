"""`python -m aegis_witness`: constructs the witness and serves until SIGTERM."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from aegis.errors import AegisError
from aegis.secretfiles import tell_weak
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.program import announce, configure_logging, run, run_until_stopped
from aegis.serving.revocation import Revocations
from aegis.serving.trusting import LiveTrust
from aegis.trust import load_private_key
from aegis.v1 import witness_pb2, witness_pb2_grpc
from aegis_witness.heads import Heads
from aegis_witness.memory import keep, kept_in
from aegis_witness.service import WitnessService, admit_peers
from aegis_witness.settings import Settings, SettingsError

log = logging.getLogger("aegis_witness")

_NAME = witness_pb2.DESCRIPTOR.services_by_name["WitnessService"].full_name
_DRAIN_SECONDS = 5.0


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    trust = LiveTrust(settings.trust)
    trust.refuse_older(kept_in(settings.data_dir))
    heads = Heads(
        settings.data_dir,
        trust=trust,
        name=settings.name,
        key=load_private_key(settings.key),
        clock=lambda: datetime.now(UTC),
    )
    revocations = Revocations(settings.tls)
    doors = Doors(
        admit=admit_peers(settings.peers),
        metrics=CallMetrics(CollectorRegistry()),
        authenticate=revocations.guard(by_certificate(settings.trust_domain)),
    )
    port = Port(
        doors=doors,
        tls=settings.tls,
        services=(_NAME,),
    )
    witness_pb2_grpc.add_WitnessServiceServicer_to_server(WitnessService(heads), port.server)
    address = await port.open(settings.listen)
    try:
        log.info(
            "%s listens to %s at %s", settings.name, ", ".join(sorted(settings.peers)), address
        )
        announce(settings.ready_file, address)
        await run_until_stopped(
            trust.run(),
            keep(trust, settings.data_dir),
            revocations.run(doors.leashes.expel),
        )
    finally:
        await port.close(_DRAIN_SECONDS)


def main() -> None:
    """Reads the environment and serves; exits with 2 when it cannot start."""
    configure_logging()
    try:
        settings = Settings.from_environment(os.environ)
        tell_weak(os.environ, development=settings.development)
        run(serve(settings))
    except (SettingsError, AegisError, RuntimeError, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
