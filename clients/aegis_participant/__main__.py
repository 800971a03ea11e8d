"""`python -m aegis_participant --dir DIR`: attends and trains until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import logging
import signal
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from aegis import sitekeys
from aegis.following import Following
from aegis.serving.program import configure_logging, run
from aegis.v1 import participant_pb2_grpc
from aegis_participant import status as statuses
from aegis_participant.answers import Answers
from aegis_participant.attendance import Attendance, ParticipationEnded
from aegis_participant.certificate import Certificate
from aegis_participant.desk import Desk
from aegis_participant.ledger import Ledger, LedgerError, Limit
from aegis_participant.metrics import open_store
from aegis_participant.reports import Reports
from aegis_participant.rows import Counts
from aegis_participant.settings import Settings, SettingsError, identity_in
from aegis_participant.status import Status
from aegis_participant.workers import Workers

log = logging.getLogger("aegis_participant")

_ENDED = 3


def _now() -> datetime:
    return datetime.now(UTC)


async def attend(settings: Settings) -> None:
    """Takes part until SIGTERM or SIGINT; raises `ParticipationEnded`."""
    limits = {
        d.name: Limit(d.epsilon_limit, d.delta, str(d.file.resolve()))
        for d in settings.data.values()
    }
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(settings.folder / "ledger", limits, clock=_now))
        certificate = Certificate(settings.identity, settings.name, clock=_now)
        status = Status(settings.folder, clock=_now)
        workers = Workers(settings.folder, at_once=settings.at_once)
        stack.callback(workers.close)
        counts = Counts()
        desk = Desk(
            settings,
            ledger=ledger,
            answers=Answers(settings.folder / "answers"),
            workers=workers,
            counts=counts,
        )
        desk.settle_answers()
        store = open_store(settings.store, settings.kms_key)
        reports = Reports(settings, desk, counts, status, store)
        status.set(
            participant=settings.name,
            server=settings.address,
            certificate_ends=certificate.ends.isoformat(timespec="seconds"),
        )
        workers.warm(next(iter(settings.apps.values())))
        await asyncio.to_thread(reports.data)
        async with Following(settings.address, settings.identity, retries=False) as channel:
            stub = participant_pb2_grpc.ParticipantServiceStub(channel)
            attendance = Attendance(
                settings,
                stub,
                desk,
                certificate=certificate,
                reports=reports,
                status=status,
                software=f"aegis-participant {importlib.metadata.version('aegis-control-plane')}",
                clock=_now,
            )
            await _until_stopped(attendance, certificate, stub, status)


async def _until_stopped(
    attendance: Attendance,
    certificate: Certificate,
    stub: participant_pb2_grpc.ParticipantServiceStub,
    status: Status,
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, attendance.stop)
    keeping = asyncio.create_task(certificate.keep(stub, status))
    try:
        await attendance.run()
        status.set(state="stopped", connected_since=None, working_on=[])
    except ParticipationEnded as ended:
        status.set(state="ended", detail=str(ended), connected_since=None, working_on=[])
        raise
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def _show(folder: Path, output: str) -> int:
    try:
        state = statuses.read(folder)
    except (OSError, ValueError, KeyError):
        sys.stderr.write(f"{folder} has no status: the program was not started here yet\n")
        return 1
    text = json.dumps(state, indent=2) + "\n" if output == "json" else statuses.render(state)
    sys.stdout.write(text)
    return 0


def main() -> None:
    """Reads DIR and attends; exits with 2 when it cannot start, with 3 when it may not go on."""
    parser = argparse.ArgumentParser(prog="aegis-participant", description="A site that trains.")
    parser.add_argument("--dir", type=Path, required=True, help="what `participant join` made")
    parser.add_argument("--status", action="store_true", help="say how it is doing, and end")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    if arguments.status:
        sys.exit(_show(arguments.dir, arguments.output))
    configure_logging()
    try:
        sitekeys.mend(identity_in(arguments.dir))
        settings = Settings.read(arguments.dir)
        run(attend(settings))
    except ParticipationEnded as ended:
        log.critical("%s", ended)
        sys.exit(_ENDED)
    except (SettingsError, LedgerError, ValueError, OSError, ImportError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
