"""Flower's own SuperLink, SuperExec and SuperNodes, as Flower's documentation starts them.

TLS and SuperNode authentication, process by process, in a folder of their own; ended together.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StreamLogsRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from aegis.local.authority import Authority, Names

_SECONDS = 120.0
_RUN_SECONDS = 900.0


class StockLink:
    """A stock federation of some sites. Use it as a context."""

    def __init__(self, folder: Path, sites: int) -> None:
        self._folder = folder
        self._sites = sites
        self._processes: list[subprocess.Popen[bytes]] = []
        self._address = f"127.0.0.1:{_port()}"
        pki = folder / "pki"
        pki.mkdir(parents=True)
        self._authority = Authority.create(pki, datetime.now(UTC), [], days=2)
        names = Names("spiffe://bench/server/stock", ("localhost",), ("127.0.0.1",))
        self._authority.issue("server", names, datetime.now(UTC), [], days=2)

    def __enter__(self) -> StockLink:
        pki, (host, port) = self._authority.folder, self._address.split(":")
        self._start(
            "superlink",
            *("flower-superlink", "--ssl-certfile", str(pki / "server.crt")),
            *("--ssl-keyfile", str(pki / "server.key"), "--ssl-ca-certfile", str(pki / "ca.crt")),
            *("--enable-supernode-auth", "--host", host, "--port", port),
            *("--database", str(self._folder / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        _until(self._answers, "the SuperLink did not start")
        for number in range(self._sites):
            self._supernode(number)
        _until(lambda: self._online() == self._sites, "the SuperNodes did not come")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            # A group: a SuperNode leaves its SuperExec behind.
            os.killpg(process.pid, 15)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill_group(process)

    def run(self, application: Path, config: Mapping[str, int | float | str]) -> str:
        """Runs an application to its end; returns what its ServerApp has printed."""
        request = StartRunRequest()
        request.fab.content = build_fab_from_disk(application)
        for key, value in user_config_to_proto(dict(config)).items():
            request.override_config[key].CopyFrom(value)
        with self._control() as control:
            run_id = control.StartRun(request).run_id
            end = time.monotonic() + _RUN_SECONDS
            while time.monotonic() < end:
                run = control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id]
                if run.status.status == "finished":
                    break
                time.sleep(1)
            logs = control.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0))
            printed = "".join(each.log_output for each in logs)
        if run.status.sub_status != "completed":
            raise RuntimeError(f"the run has not come to its end:\n{printed}")
        return printed

    def _supernode(self, number: int) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        path = self._folder / f"site{number}"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        path.with_suffix(".pub").write_bytes(
            key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        )
        with self._control() as control:
            control.RegisterNode(
                RegisterNodeRequest(
                    public_key=public_key_to_bytes(key.public_key()), name=f"site{number}"
                )
            )
        rows = (
            f'dataset="breast-cancer" partition-id={number} num-partitions={self._sites}'
            " dirichlet-alpha=1.0 seed=1 public-data=true"
        )
        self._start(
            f"site{number}",
            *("flower-supernode", "--superlink", self._address),
            *("--root-certificates", str(self._authority.folder / "ca.crt")),
            *("--auth-supernode-private-key", str(path), "--port", str(_port())),
            *("--node-config", rows),
        )

    def _start(self, name: str, *command: str) -> None:
        here = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self._folder / f"home-{name}"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def _control(self) -> ControlHttpClient:
        return ControlHttpClient.from_server_address(
            server_address=self._address,
            insecure=False,
            root_certificates=(self._authority.folder / "ca.crt").read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="bench")],
        )

    def _answers(self) -> bool:
        host, port = self._address.split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def _online(self) -> int:
        with self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
        return sum(node.status == "online" for node in nodes)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


def _until(true: object, message: str) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return
        time.sleep(0.2)
    raise RuntimeError(message)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
