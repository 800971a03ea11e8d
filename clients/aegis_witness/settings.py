"""What the witness is told, read once from the environment and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aegis.serving.tls import TlsFiles
from aegis.serving.trusting import TrustFiles


class SettingsError(ValueError):
    """The environment is not usable; the message names every variable that is wrong."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one witness."""

    listen: str
    tls: TlsFiles
    trust_domain: str
    peers: frozenset[str]
    trust: TrustFiles
    name: str
    key: Path
    data_dir: Path
    development: bool
    ready_file: Path | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads AEGIS_*; raises `SettingsError` with all problems at once."""
        problems: list[str] = []

        def text(name: str, default: str = "") -> str:
            value = environment.get(name) or default
            if not value:
                problems.append(f"{name} is not set")
            return value

        def file(name: str) -> Path:
            path = Path(text(name))
            if environment.get(name) and not path.is_file():
                problems.append(f"{name}: {path} is no file")
            return path

        peers = text("AEGIS_WITNESS_PEERS").split(",")
        ready = environment.get("AEGIS_READY_FILE")
        settings = cls(
            listen=text("AEGIS_LISTEN", "127.0.0.1:0"),
            tls=TlsFiles(
                file("AEGIS_TLS_CERT"),
                file("AEGIS_TLS_KEY"),
                file("AEGIS_TLS_CA"),
                file("AEGIS_TLS_CRL") if environment.get("AEGIS_TLS_CRL") else None,
            ),
            trust_domain=text("AEGIS_TRUST_DOMAIN", "aegis.local"),
            peers=frozenset(peer.strip() for peer in peers if peer.strip()),
            trust=TrustFiles(
                file("AEGIS_TRUST_BUNDLE"),
                file("AEGIS_TRUST_ROOT") if environment.get("AEGIS_TRUST_ROOT") else None,
            ),
            name=text("AEGIS_WITNESS_NAME", "witness:local"),
            key=file("AEGIS_WITNESS_KEY"),
            data_dir=Path(text("AEGIS_DATA_DIR")),
            development=environment.get("AEGIS_PROFILE") == "development",
            ready_file=Path(ready) if ready else None,
        )
        if problems:
            raise SettingsError("; ".join(problems))
        return settings
