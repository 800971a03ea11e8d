"""Taking up a run's ServerApp task: whoever has its token is the ServerApp.

A coordinator does it for its own run, in its own process: its round loop, its review and its
checks are then in Flower's place. SuperExec does the same for applications that bring their own
ServerApp.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aegis_server.training.superlink.control import Control
from aegis_server.training.superlink.internals import (
    AcquireTaskRequest,
    RuntimeHttpClient,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
    TaskType,
)

log = logging.getLogger(__name__)

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True, slots=True)
class Claim:
    """A ServerApp task that is ours; the token is all that proves it."""

    run_id: int
    token: str = field(repr=False)


def acquire(address: str, secret: bytes) -> Claim | None:
    """Takes up the oldest ServerApp task that waits, or None.

    Raises httpx.HTTPStatusError, e.g. 401 for a wrong secret.
    """
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="aegis"),
            SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE}),
        ],
    )
    with client:
        answer = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
    return Claim(int(answer.task.run_id), answer.token) if answer.token else None


def start_own(
    control: Control,
    address: str,
    secret: bytes,
    application: bytes,
    config: Mapping[str, bool | int | float | str],
    *,
    lock: Path,
) -> Claim:
    """Starts a run of an application and takes up its task; raises RuntimeError.

    One at a time for all who use the file `lock`, because tasks are handed out by age: one that is
    older was left behind by somebody who died in between, so its run is stopped.
    """
    with _locked(lock):
        run_id = control.start(application, config)
        while (claim := acquire(address, secret)) is not None:
            if claim.run_id == run_id:
                return claim
            log.warning("run %d was left behind: it is stopped", claim.run_id)
            control.stop(claim.run_id)
    raise RuntimeError(f"somebody else has taken up run {run_id}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
