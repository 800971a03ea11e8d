"""What the SuperLink program is told at its start, and where its files are."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SECRET_BYTES = 32
_LOOPBACK = "127.0.0.1"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class House:
    """The folder of a SuperLink: its state, its secrets, and the node key of each participant.

    `nodes/NAME.pub` is the OpenSSH public key (NIST curve) of participant NAME's SuperNode. To take
    the file away is to shut it out.
    """

    folder: Path

    @property
    def nodes(self) -> Path:
        """Where the node keys are."""
        return self.folder / "nodes"

    @property
    def database(self) -> Path:
        """The SQLite file with runs, nodes and messages."""
        return self.folder / "state.db"

    @property
    def flower_home(self) -> Path:
        """FLWR_HOME, so that nothing is written into anybody's home."""
        return self.folder / "flower"

    @property
    def executor_secret_file(self) -> Path:
        """Who has it may take up tasks: SuperExec, or a coordinator."""
        return self.folder / "executor.secret"

    @property
    def control_secret_file(self) -> Path:
        """Who has it may start, stop and list runs."""
        return self.folder / "control.secret"

    @property
    def members(self) -> Path:
        """Who is enrolled, as the server says."""
        return self.folder / "members.json"

    @property
    def inner_file(self) -> Path:
        """Where the inner port is, `host:port`."""
        return self.folder / "inner"

    def prepare(self) -> None:
        """Makes what is missing; secrets are made once, for this user only."""
        for each in (self.folder, self.nodes, self.flower_home):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for file in (self.executor_secret_file, self.control_secret_file):
            _make_secret(file)

    def environment(self) -> dict[str, str]:
        """Returns what every Flower process of this house has to find in its environment."""
        from aegis_server.training.superlink import SWITCHES

        return {**SWITCHES, "FLWR_HOME": str(self.flower_home)}


def _make_secret(file: Path) -> None:
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(made, "w") as output:
        output.write(secrets.token_urlsafe(_SECRET_BYTES))


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address:
        """Reads `host:port`; raises ValueError."""
        match = re.fullmatch(r"\[?([^\s\[\]]+?)\]?:(\d{1,5})", text)
        if match is None or int(match[2]) > 0xFFFF:
            raise ValueError(f"{text!r} is not host:port")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Everything `python -m aegis_server.training.superlink` is told.

    `listen` is for the sites, `inner` for this machine; `roots` vouch for participants and for
    nobody else. `revoked` is a revocation list of theirs, `members` the file that says who is
    enrolled; without one, having a node key in the house is being enrolled.
    """

    house: House
    listen: Address
    inner: Address
    certificate: Path
    key: Path
    roots: Path
    revoked: Path | None
    members: Path | None
    trust_domain: str
    body_bytes_max: int
    ready_file: Path | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LinkSettings:
        """Reads the variables; raises ValueError with the first that is wrong."""
        revoked, ready = environment.get("AEGIS_FLOWER_CRL"), environment.get("AEGIS_READY_FILE")
        members = environment.get("AEGIS_FLOWER_MEMBERS")
        settings = cls(
            house=House(Path(_text(environment, "AEGIS_FLOWER_DIR")).absolute()),
            listen=_address(environment, "AEGIS_FLOWER_LISTEN"),
            inner=_address(environment, "AEGIS_FLOWER_INNER", f"{_LOOPBACK}:0"),
            certificate=_file(environment, "AEGIS_TLS_CERT"),
            key=_file(environment, "AEGIS_TLS_KEY"),
            roots=_file(environment, "AEGIS_PARTICIPANTS_CA_CERT"),
            revoked=_file(environment, "AEGIS_FLOWER_CRL") if revoked else None,
            members=Path(members) if members else None,
            trust_domain=environment.get("AEGIS_TRUST_DOMAIN", "aegis.local"),
            body_bytes_max=_mebibytes(environment, "AEGIS_FLOWER_BODY_MIB", 16),
            ready_file=Path(ready) if ready else None,
        )
        if settings.inner.host not in (_LOOPBACK, "::1"):
            raise ValueError("AEGIS_FLOWER_INNER must be on the loopback: it starts and stops runs")
        return settings


def _text(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise ValueError(f"{name} is missing")
    return value


def _file(environment: Mapping[str, str], name: str) -> Path:
    path = Path(_text(environment, name))
    if not path.is_file():
        raise ValueError(f"{name}: no file {path}")
    return path


def _address(environment: Mapping[str, str], name: str, usual: str = "") -> Address:
    try:
        return Address.of(environment.get(name) or usual)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _mebibytes(environment: Mapping[str, str], name: str, usual: int) -> int:
    value = environment.get(name) or str(usual)
    if re.fullmatch(r"[1-9][0-9]{0,3}", value) is None:
        raise ValueError(f"{name}: {value!r} is no number of MiB from 1 to 9999")
    return int(value) * _MIB
