"""Our own programs as parts of a home: how each is started, and when it is ready."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from aegis.channel import Identity
from aegis.local.health import serving
from aegis.local.parts import ProgramPart
from aegis.local.process import Program

# What a user may say about the executor through the environment of `aegis up`.
_EXECUTOR_SETTINGS = (
    "AEGIS_CLUSTER",
    "AEGIS_EXECUTOR_ACTIONS",
    "AEGIS_EXECUTOR_CLOCK_CHECK",
    "AEGIS_EXECUTOR_DETACHED_APPROVALS",
    "AEGIS_EXECUTOR_FAILURES",
    "AEGIS_EXECUTOR_GUARDS",
    "AEGIS_EXECUTOR_LOOK_SECONDS",
    "AEGIS_EXECUTOR_MAX_REPLICAS",
    "AEGIS_EXECUTOR_NAMESPACES",
    "AEGIS_EXECUTOR_PAUSE_FILE",
    "AEGIS_EXECUTOR_STABILISE_SECONDS",
    "AEGIS_EXECUTOR_SUCCESSES",
    "AEGIS_EXECUTOR_WINDOW_SECONDS",
    "AEGIS_PROMETHEUS_CA",
    "AEGIS_PROMETHEUS_TOKEN_FILE",
    "AEGIS_PROMETHEUS_URL",
    "AEGIS_SHARED_SECRETS",
)
# And about the server.
_SERVER_SETTINGS = (
    "AEGIS_ADVERTISE",
    "AEGIS_APPROVAL_SECONDS",
    "AEGIS_BLOBS",
    "AEGIS_CACHE",
    "AEGIS_DECISION_ATTRIBUTES",
    "AEGIS_DECISION_BUFFER",
    "AEGIS_DECISION_LOG",
    "AEGIS_DECISION_RETENTION_DAYS",
    "AEGIS_EXECUTION_SECONDS",
    "AEGIS_FLOWER_APPLICATIONS",
    "AEGIS_FLOWER_DIR",
    "AEGIS_FLOWER_LISTEN",
    "AEGIS_KMS_ENDPOINT",
    "AEGIS_LIMITS",
    "AEGIS_METRICS",
    "AEGIS_OIDC",
    "AEGIS_POLICY_TWO_PERSON",
    "AEGIS_REVIEW_HOLD_DEFAULT",
    "AEGIS_REVIEW_HOLD_SECONDS",
    "AEGIS_REVIEW_WORKERS",
    "AEGIS_S3_ENDPOINT",
    "AEGIS_S3_KMS_KEY",
    "AEGIS_SHARED_SECRETS",
    "AEGIS_TOKEN_ADVERTISE",
    "AEGIS_WORKERS",
)


# What of it workers are told as well: where blobs are, and what becomes of HELD updates.
_WORKER_SETTINGS = (
    "AEGIS_BLOBS",
    "AEGIS_KMS_ENDPOINT",
    "AEGIS_REVIEW_HOLD_DEFAULT",
    "AEGIS_REVIEW_HOLD_SECONDS",
    "AEGIS_S3_ENDPOINT",
    "AEGIS_S3_KMS_KEY",
)


class Service(ProgramPart):
    """A program of ours that binds an address and writes it to its ready file.

    `command` is given the address to listen on: any free port at first, the same one again after
    a restart, because others were told about it; `token_listen` is where callers without a
    certificate are served, if anywhere. A gRPC server is ready when its health service, asked as
    `asked_as`, says so.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[str], Sequence[str]],
        *,
        environment: Mapping[str, str],
        home: Path,
        listen: str = "127.0.0.1:0",
        token_listen: str = "",
        asked_as: Identity | None = None,
    ) -> None:
        self.name = name
        self.log = home / "logs" / f"{name}.log"
        self.address = ""
        self.token_address = ""
        self._command = command
        self._environment = environment
        self._listen = listen
        self._token_listen = token_listen
        self._asked_as = asked_as
        self._ready_file = home / "run" / f"{name}.ready"

    def start(self) -> None:
        """Starts it."""
        self._ready_file.unlink(missing_ok=True)
        listen = self.address or self._listen
        token_listen = self.token_address or self._token_listen
        self._program = Program(
            self.name,
            self._command(listen),
            environment={
                **self._environment,
                "AEGIS_LISTEN": listen,
                **({"AEGIS_TOKEN_LISTEN": token_listen} if token_listen else {}),
                "AEGIS_READY_FILE": str(self._ready_file),
            },
            log=self.log,
            # Killed without a chance to stop us, we still let it finish what it has begun.
            dies_with_us=signal.SIGTERM,
        )

    async def ready(self) -> bool:
        """True once it wrote the addresses it is bound to, and serves at the first."""
        try:
            first, *more = self._ready_file.read_text().split()
        except (FileNotFoundError, ValueError):
            return False
        address = first.removeprefix("https://")
        if re.fullmatch(r"\S+:\d+", address) is None:
            return False
        self.address, self.token_address = address, more[0] if more else ""
        return self._asked_as is None or await serving(address, self._asked_as) is None


class Background(ProgramPart):
    """A program of ours that serves nobody: ready once it has written its ready file."""

    address = ""

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], home: Path
    ) -> None:
        self.name = name
        self.log = home / "logs" / f"{name}.log"
        self._command = command
        self._ready_file = home / "run" / f"{name}.ready"
        self._environment = {**environment, "AEGIS_READY_FILE": str(self._ready_file)}

    def start(self) -> None:
        """Starts it."""
        self._ready_file.unlink(missing_ok=True)
        self._program = Program(
            self.name,
            self._command,
            environment=self._environment,
            log=self.log,
            dies_with_us=signal.SIGTERM,
        )

    async def ready(self) -> bool:
        """True once it says so."""
        return self._ready_file.exists()


def python(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of ours with this interpreter."""
    # -P: nothing that lies in the folder we were started from is imported instead.
    return [sys.executable, "-P", "-m", module, *arguments]


def clean_environment() -> dict[str, str]:
    """Returns our environment without any AEGIS_*: each program is told what it needs, no more."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def executor_environment(
    home: Path,
    *,
    database_url: str,
    kubeconfig: Path,
    cluster: str,
    namespaces: Sequence[str],
    witness_address: str,
    given: Mapping[str, str],
) -> dict[str, str]:
    """Returns the environment of `aegis_executor`; the AEGIS_EXECUTOR_* the user gave win."""
    chosen = {key: given[key] for key in _EXECUTOR_SETTINGS if key in given}
    return {
        **clean_environment(),
        **_tls(home, "executor"),
        **_audit(home, "executor", witness_address),
        "AEGIS_EXECUTOR_DATABASE_URL": database_url,
        "AEGIS_EXECUTOR_NAME": "executor:local",
        "AEGIS_EXECUTOR_PEERS": "server:aegis",
        "AEGIS_AUDIENCE": "aegis",
        "AEGIS_CLUSTER": cluster,
        "AEGIS_EXECUTOR_NAMESPACES": ",".join(namespaces),
        "AEGIS_KUBECONFIG": str(kubeconfig),
        **chosen,
    }


def server_environment(
    home: Path,
    *,
    database_url: str,
    redis_url: str | None,
    executor_address: str,
    witness_address: str,
    given: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Returns the environment of `aegis_server`."""
    pki = home / "pki"
    return {
        **clean_environment(),
        **_tls(home, "server"),
        **_audit(home, "server", witness_address),
        "AEGIS_DATABASE_URL": database_url,
        **({"AEGIS_REDIS_URL": redis_url} if redis_url is not None else {}),
        "AEGIS_DECISION_KEY": str(pki / "decision.key"),
        "AEGIS_APPROVAL_KEY": str(pki / "approval.key"),
        "AEGIS_EVIDENCE_KEY": str(pki / "evidence.key"),
        "AEGIS_CACHE_KEY": str(pki / "cache.key"),
        **_blob_key(pki, given),
        "AEGIS_TOKEN_KEYS": str(pki / "token-keys.json"),
        "AEGIS_MAIL": (home / "mail").as_uri(),
        "AEGIS_DATA_DIR": str(home / "blobs"),
        "AEGIS_EXECUTOR_ADDRESS": executor_address,
        "AEGIS_EXECUTOR_NAME": "executor:local",
        "AEGIS_AUDIENCE": "aegis",
        "AEGIS_COORDINATOR_CERT": str(pki / "coordinator.crt"),
        "AEGIS_COORDINATOR_KEY": str(pki / "coordinator.key"),
        "AEGIS_PARTICIPANTS_CA_CERT": str(pki / "participants-ca.crt"),
        "AEGIS_PARTICIPANTS_CA_KEY": str(pki / "participants-ca.key"),
        **{key: given[key] for key in _SERVER_SETTINGS if key in given},
    }


def review_worker_environment(
    home: Path, *, database_url: str, given: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Returns the environment of `aegis_server review-worker`: no certificate, no signing key."""
    return {
        **clean_environment(),
        "AEGIS_DATABASE_URL": database_url,
        "AEGIS_DATA_DIR": str(home / "blobs"),
        **_blob_key(home / "pki", given),
        "AEGIS_PROFILE": "development",
        **{key: given[key] for key in _WORKER_SETTINGS if key in given},
    }


def _blob_key(pki: Path, given: Mapping[str, str]) -> dict[str, str]:
    name = "AEGIS_BLOB_KMS_KEY"
    return {name: given[name]} if given.get(name) else {"AEGIS_BLOB_KEY": str(pki / "blob.key")}


def witness_environment(home: Path) -> dict[str, str]:
    """Returns the environment of `aegis_witness`."""
    return {
        **clean_environment(),
        **_tls(home, "witness"),
        "AEGIS_WITNESS_PEERS": "server:aegis,executor:local",
        "AEGIS_WITNESS_KEY": str(home / "pki" / "witness-cosign.key"),
        "AEGIS_DATA_DIR": str(home / "witness"),
    }


def _audit(home: Path, name: str, witness_address: str) -> dict[str, str]:
    return {
        "AEGIS_AUDIT_KEY": str(home / "pki" / f"{name}-audit.key"),
        "AEGIS_AUDIT_SINKS": f"{(home / 'checkpoints').as_uri()} log:",
        "AEGIS_WITNESS_ADDRESS": witness_address,
    }


def _tls(home: Path, name: str) -> dict[str, str]:
    pki = home / "pki"
    return {
        "AEGIS_TLS_CERT": str(pki / f"{name}.crt"),
        "AEGIS_TLS_KEY": str(pki / f"{name}.key"),
        "AEGIS_TLS_CA": str(pki / "ca.crt"),
        "AEGIS_TLS_CRL": str(pki / "ca.crl"),
        "AEGIS_TRUST_DOMAIN": "aegis.local",
        "AEGIS_PROFILE": "development",
        "AEGIS_TRUST_BUNDLE": str(pki / "trust.json"),
        "AEGIS_TRUST_ROOT": str(pki / "trust-root.pub"),
    }
