"""A SuperLink of ours as a process, and the certificates and node keys of its sites."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from aegis.local.authority import Authority, Names
from aegis_server.training.superlink.control import Control
from tests.processes import Process

DOMAIN = "aegis.test"


@dataclass(frozen=True)
class Site:
    """What one site has: its certificate, and the key of its SuperNode."""

    name: str
    certificate: Path
    key: Path
    node_key: Path

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        key = load_ssh_private_key(self.node_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def identity_headers(self, now: datetime | None = None) -> dict[str, str]:
        """As a SuperNode proves that it has its key."""
        stamp = (now or datetime.now(UTC)).isoformat()
        key = self.private_key()
        signature = key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {
            "flwr-public-key": base64.b64encode(public).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": base64.b64encode(signature).decode(),
        }


def activation(site: Site) -> dict[str, Any]:
    """What a SuperNode sends first, as arguments of an HTTP client."""
    headers = site.identity_headers()
    public_key = base64.b64decode(headers["flwr-public-key"])
    request = ActivateNodeRequest(public_key=public_key, heartbeat_interval=30)
    kind = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    return {"content": request.SerializeToString(), "headers": kind | headers}


class Grounds:
    """The authorities and the folder of a SuperLink, before it runs."""

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        self.folder, self.house = folder, folder / "house"
        self.server = self._authority("server-pki", now)
        self.participants = self._authority("participants-pki", now)
        self.nodes = self.house / "nodes"
        self.nodes.mkdir(parents=True)
        names = Names(f"spiffe://{DOMAIN}/server/aegis", ("localhost",), ("127.0.0.1",))
        self.server.issue("server", names, now, [], days=2)

    def _authority(self, name: str, now: datetime) -> Authority:
        place = self.folder / name
        place.mkdir(parents=True)
        return Authority.create(place, now, [], days=2)

    @property
    def roots(self) -> Path:
        """The CA file every site has."""
        return self.server.folder / "ca.crt"

    def site(self, name: str, *, path: str = "participant", enrolled: bool = True) -> Site:
        """Makes a site's certificate and node key; `enrolled` puts the key where it counts."""
        now, folder = datetime.now(UTC), self.participants.folder
        self.participants.issue(
            f"{path}-{name}", Names(f"spiffe://{DOMAIN}/{path}/{name}"), now, [], days=2
        )
        key = ec.generate_private_key(ec.SECP384R1())
        node_key = folder / f"{path}-{name}.node"
        node_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        if enrolled:
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            (self.nodes / f"{name}.pub").write_bytes(public)
        return Site(name, folder / f"{path}-{name}.crt", folder / f"{path}-{name}.key", node_key)

    def trusting(self, site: Site | None = None) -> ssl.SSLContext:
        """TLS as a client that trusts the server, with a site's certificate or without any."""
        context = ssl.create_default_context(cafile=str(self.roots))
        if site is not None:
            context.load_cert_chain(site.certificate, site.key)
        return context

    def control(self, link: Process) -> Control:
        """The Control API as who has its secret sees it."""
        return Control(link.token_address, (self.house / "control.secret").read_text())

    def start(self, **more: str) -> Process:
        """Starts the SuperLink; its addresses are `address` (sites) and `token_address`."""
        settings = {
            "AEGIS_FLOWER_DIR": str(self.house),
            "AEGIS_FLOWER_LISTEN": "127.0.0.1:0",
            "AEGIS_TLS_CERT": str(self.server.folder / "server.crt"),
            "AEGIS_TLS_KEY": str(self.server.folder / "server.key"),
            "AEGIS_PARTICIPANTS_CA_CERT": str(self.participants.folder / "ca.crt"),
            "AEGIS_TRUST_DOMAIN": DOMAIN,
        }
        return Process(self.folder, "aegis_server.training.superlink", **settings | more)

    def left_behind(self) -> list[str]:
        """Returns the commands of processes that still work for this folder."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (place / "cmdline").read_bytes()
                about = command + (place / "environ").read_bytes()
                if str(self.folder).encode() in about and int(place.name) != os.getpid():
                    found.append(command.replace(b"\0", b" ").decode())
        return found


class Flower:
    """SuperExec and the SuperNodes of some sites, as processes around a SuperLink."""

    def __init__(self, grounds: Grounds, link: Process) -> None:
        self._grounds, self._link = grounds, link
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def executor(self) -> None:
        self._start(
            "executor",
            *("aegis_server.training.superlink.executor", "--house", str(self._grounds.house)),
            *("--inner", self._link.token_address),
        )

    def supernode(self, site: Site, number: int, of: int, *more: str, rows: str = "") -> None:
        """Starts a site's SuperNode; `more` are the launcher's own arguments."""
        self._start(
            site.name,
            *("aegis_participant.supernode", *more),
            *("--certificate", str(site.certificate), "--key", str(site.key), "--"),
            *("--superlink", self._link.address, "--root-certificates", str(self._grounds.roots)),
            *("--auth-supernode-private-key", str(site.node_key), "--port", str(free_port())),
            *("--node-config", f"partition-id={number} num-partitions={of} {rows}"),
        )

    def _start(self, name: str, *command: str) -> None:
        home = self._grounds.folder / "homes" / name
        home.mkdir(parents=True)
        with (home / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**Process.clean(), "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def log(self, name: str) -> str:
        return (self._grounds.folder / "homes" / name / "log").read_text()

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{self.log(name)}" for name in self.processes)

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
