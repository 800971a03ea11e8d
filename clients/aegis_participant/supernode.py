"""Flower's own SuperNode behind mutual TLS: for sites that run Flower.

    python -m aegis_participant.supernode --certificate C --key K --aegis -- \\
        --superlink HOST:PORT --root-certificates CA --auth-supernode-private-key KEY ...

What follows `--` are the arguments of `flower-supernode`, which runs unchanged. Two things are
added around it: it shows the site's certificate, which Flower cannot, and it takes up Aegis' own
application and those of named digests (`--app`) only, because a SuperNode runs whatever code a
SuperLink hands it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import logging
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aegis.serving.lineage import die_with_parent, run_group

log = logging.getLogger("flwr")


def main() -> int:
    """Runs a SuperNode until it is told to end; returns its exit status."""
    parser = argparse.ArgumentParser(prog="aegis-supernode")
    parser.add_argument("--certificate", type=Path, required=True, help="of this site, PEM")
    parser.add_argument("--key", type=Path, required=True, help="of the certificate, PEM")
    parser.add_argument(
        "--app",
        action="append",
        default=[],
        metavar="SHA256",
        help="digest of an application that may run here; give it again for another",
    )
    parser.add_argument("--aegis", action="store_true", help="run Aegis' own application")
    parser.add_argument("--any-app", action="store_true", help="run whatever the SuperLink sends")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("flower", nargs="*", help="arguments of flower-supernode, behind --")
    arguments = parser.parse_args()
    if bool(arguments.app or arguments.aegis) == arguments.any_app:
        parser.error("either --any-app is needed, or --aegis and --app")
    if arguments.parent is None:
        return run_group(
            [
                *(sys.executable, "-m", "aegis_participant.supernode"),
                *("--parent", str(os.getpid())),
                *sys.argv[1:],
            ],
            environment=_environment(),
        )
    die_with_parent(arguments.parent)
    apps = None if arguments.any_app else [*arguments.app, *_own(arguments.aegis)]
    _wrap(arguments.certificate, arguments.key, apps)
    from flwr.supernode.cli.flower_supernode import flower_supernode

    sys.argv = ["flower-supernode", *arguments.flower]
    flower_supernode()
    return 0


def _own(wanted: bool) -> list[str]:
    from aegis_participant.fab import own_digest

    return [own_digest()] if wanted else []


def _environment() -> dict[str, str]:
    here = Path(sys.executable).parent
    return {
        **os.environ,
        # It finds Flower's other programs by their names.
        "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def _wrap(certificate: Path, key: Path, apps: Sequence[str] | None) -> None:
    """Changes how this process calls the Fleet API, and nothing else of Flower."""
    from flwr.supercore.run import RunNotRunningException
    from flwr.supernode.fleet_http_client import FleetHttpClient

    client: Any = FleetHttpClient
    client.__init__ = mutual(client.__init__, certificate, key)
    if apps is not None:
        client.GetFab = pinned(client.GetFab, apps, RunNotRunningException)


def mutual(connect: Callable[..., None], certificate: Path, key: Path) -> Callable[..., None]:
    """Returns a client's constructor that shows a certificate, whatever its `verify` was."""

    @functools.wraps(connect)
    def shows(self: object, *arguments: Any, **options: Any) -> None:
        verify = options.get("verify", True)
        if not isinstance(verify, ssl.SSLContext):
            verify = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        verify.load_cert_chain(certificate, key)
        connect(self, *arguments, **{**options, "verify": verify})

    return shows


def pinned(
    fetch: Callable[..., Any], apps: Sequence[str], refusal: type[BaseException]
) -> Callable[..., Any]:
    """Returns a `GetFab` that hands over applications of these digests only.

    The others raise `refusal`: the SuperNode drops their messages and goes on.
    """
    wanted = {digest.lower() for digest in apps}

    @functools.wraps(fetch)
    def fetches(self: object, request: Any) -> Any:
        response = fetch(self, request)
        digest = hashlib.sha256(response.fab.content).hexdigest()
        if digest not in wanted:
            log.error("application %s is not one that may run here", digest)
            raise refusal
        return response

    return fetches


if __name__ == "__main__":
    raise SystemExit(main())
