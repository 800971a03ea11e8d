"""`python -m aegis_server` serves; with `migrate` it brings the database up to date and ends, with
`review-worker` it examines rounds for servers on other machines.

With AEGIS_WORKERS it is the parent of that many processes of this same program.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys

from prometheus_client import start_http_server

from aegis.errors import AegisError
from aegis.secretfiles import tell_weak, text_of
from aegis.serving.program import announce, configure_logging, run, run_until_stopped
from aegis_server.parent import program as parent
from aegis_server.parent.worker import end_with_parent
from aegis_server.settings import Settings, SettingsError

log = logging.getLogger("aegis_server")


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    # A parent, which serves nobody, is spared the weight of all rooms.
    from aegis_server.app import assemble

    async with assemble(settings) as plane:
        if settings.metrics_listen is not None:
            host, _, port = settings.metrics_listen.rpartition(":")
            start_http_server(int(port), host)
        addresses = [address for address in (plane.address, plane.token_address) if address]
        # What was built until now stays: nobody has to look through it for garbage again and again.
        gc.collect()
        gc.freeze()
        announce(settings.ready_file, *addresses)
        log.info("serving at %s", " and ".join(addresses))
        await run_until_stopped(*plane.parts)


def examine() -> None:
    """Examines rounds until SIGTERM or SIGINT."""
    from aegis_server.review_worker import WorkerSettings, work

    settings = WorkerSettings.from_environment()
    tell_weak(os.environ, development=settings.development)
    run(work(settings))


async def bring_up_to_date() -> None:
    """Applies migrations as the owner of the schema."""
    url = text_of(os.environ, "AEGIS_MIGRATION_URL") or text_of(os.environ, "AEGIS_DATABASE_URL")
    if not url:
        raise SettingsError("set AEGIS_MIGRATION_URL or AEGIS_DATABASE_URL")
    # Only this command is for the queue's tables, which their package has to be loaded for.
    from aegis_server.migrating import migrate

    for name in await migrate(url):
        log.info("applied %s", name)


def main() -> None:
    """Entry point; exits with 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="aegis-server", description=__doc__)
    parser.add_argument(
        "command", nargs="?", choices=["serve", "migrate", "review-worker"], default="serve"
    )
    # Only our own parent says this.
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    configure_logging()
    # PyCasbin tells its whole model at INFO for every revision.
    logging.getLogger("casbin").setLevel(logging.WARNING)
    try:
        if arguments.command == "migrate":
            asyncio.run(bring_up_to_date())
        elif arguments.command == "review-worker":
            examine()
        else:
            settings = Settings.from_environment()
            if arguments.worker is not None:
                end_with_parent()
                run(serve(settings))
                return
            tell_weak(os.environ, development=settings.development)
            run(parent.serve(settings) if settings.workers > 1 else serve(settings))
    except (SettingsError, AegisError, OSError, RuntimeError, ValueError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
