"""What the executor is told, read once from the environment and checked before anything starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aegis.secretfiles import text_of
from aegis.serving.tls import TlsFiles
from aegis.serving.trusting import TrustFiles, folder_of
from aegis_executor.admission import Limits
from aegis_executor.approvals import demands
from aegis_executor.catalogue import REMEDIES
from aegis_executor.catalogue.gates import PROTECTED_NAMESPACES
from aegis_executor.failpoints import Failpoints
from aegis_executor.guards.numbers import Numbers, NumbersError
from aegis_executor.kubernetes import Nodes, Reach
from aegis_executor.verification.terms import Defaults

_NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class PrometheusAt:
    """Where Prometheus is asked, whom to believe, and what proves us to it."""

    url: str
    authority: Path | None
    token_file: Path | None


class SettingsError(ValueError):
    """The environment is not usable; the message names every variable that is wrong."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one executor; a database URL may hold a password, so it is not shown."""

    database_url: str = field(repr=False)
    listen: str
    tls: TlsFiles
    trust_domain: str
    trust: TrustFiles
    name: str
    peers: frozenset[str]
    audience: str
    cluster: str
    limits: Limits
    # None in a pod that uses its own service account; api_server is then the cluster's URL.
    kubeconfig: Path | None
    api_server: str
    reach: Reach
    settle_seconds: float
    verification: Defaults
    prometheus: PrometheusAt | None
    metrics_listen: tuple[str, int] | None
    ready_file: Path | None
    development: bool
    failpoint: str
    audit_key: Path
    audit_sinks: tuple[str, ...]
    witness_address: str | None
    guards: Numbers
    pause_file: Path | None
    clock_check: bool
    standby: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads AEGIS_*; raises `SettingsError` with all problems at once."""
        read = _Reader(environment)
        namespaces = read.namespaces("AEGIS_EXECUTOR_NAMESPACES")
        kubeconfig, api_server = read.cluster("AEGIS_KUBECONFIG")
        # A node is everybody's: whoever wants one touched has to name it.
        nodes = read.nodes("AEGIS_EXECUTOR_NODES")
        # A deletion asks no disruption budget.
        delete_unready = read.flag("AEGIS_EXECUTOR_DELETE_UNREADY")
        settings = cls(
            database_url=read.secret("AEGIS_EXECUTOR_DATABASE_URL"),
            listen=read.text("AEGIS_LISTEN", "127.0.0.1:0"),
            tls=TlsFiles(
                read.file("AEGIS_TLS_CERT"),
                read.file("AEGIS_TLS_KEY"),
                read.file("AEGIS_TLS_CA"),
                read.file("AEGIS_TLS_CRL") if environment.get("AEGIS_TLS_CRL") else None,
            ),
            trust_domain=read.text("AEGIS_TRUST_DOMAIN", "aegis.local"),
            trust=TrustFiles(
                read.file("AEGIS_TRUST_BUNDLE"),
                read.file("AEGIS_TRUST_ROOT") if environment.get("AEGIS_TRUST_ROOT") else None,
                folder_of(environment.get("AEGIS_SHARED_SECRETS")),
            ),
            name=read.text("AEGIS_EXECUTOR_NAME", "executor:local"),
            peers=read.names("AEGIS_EXECUTOR_PEERS", "server:aegis"),
            audience=read.text("AEGIS_AUDIENCE", "aegis"),
            cluster=read.text("AEGIS_CLUSTER"),
            limits=Limits(
                namespaces=namespaces,
                actions=read.actions("AEGIS_EXECUTOR_ACTIONS"),
                replicas_max=int(read.number("AEGIS_EXECUTOR_MAX_REPLICAS", 10, least=1)),
                nodes=nodes,
                delete_unready=delete_unready,
                detached_approvals=read.demands("AEGIS_EXECUTOR_DETACHED_APPROVALS"),
            ),
            kubeconfig=kubeconfig,
            api_server=api_server,
            reach=Reach(namespaces, nodes=nodes, delete_pods=delete_unready),
            settle_seconds=read.number("AEGIS_EXECUTOR_SETTLE_SECONDS", 75, least=0),
            verification=Defaults(
                stabilise_seconds=read.number("AEGIS_EXECUTOR_STABILISE_SECONDS", 30, least=0),
                window_seconds=read.number("AEGIS_EXECUTOR_WINDOW_SECONDS", 300, least=1),
                every_seconds=read.number("AEGIS_EXECUTOR_LOOK_SECONDS", 5, least=0.1),
                successes=int(read.number("AEGIS_EXECUTOR_SUCCESSES", 2, least=1)),
                failures=int(read.number("AEGIS_EXECUTOR_FAILURES", 20, least=1)),
            ),
            prometheus=read.prometheus(),
            metrics_listen=read.address("AEGIS_METRICS_LISTEN"),
            ready_file=Path(environment["AEGIS_READY_FILE"])
            if environment.get("AEGIS_READY_FILE")
            else None,
            development=environment.get("AEGIS_PROFILE") == "development",
            failpoint=read.failpoint("AEGIS_FAILPOINT"),
            audit_key=read.file("AEGIS_AUDIT_KEY"),
            audit_sinks=tuple(environment.get("AEGIS_AUDIT_SINKS", "").split()),
            witness_address=environment.get("AEGIS_WITNESS_ADDRESS") or None,
            guards=read.guards("AEGIS_EXECUTOR_GUARDS"),
            pause_file=read.pause_file("AEGIS_EXECUTOR_PAUSE_FILE"),
            # A laptop's clock is its owner's affair.
            clock_check=read.flag(
                "AEGIS_EXECUTOR_CLOCK_CHECK",
                default=environment.get("AEGIS_PROFILE") != "development",
            ),
            standby=read.flag("AEGIS_EXECUTOR_STANDBY"),
        )
        if read.problems:
            raise SettingsError("; ".join(read.problems))
        return settings


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        value = self._environment.get(name) or default
        if not value:
            self.problems.append(f"{name} is not set")
        return value

    def secret(self, name: str) -> str:
        try:
            return text_of(self._environment, name) or self.text(name)
        except ValueError as error:
            self.problems.append(str(error))
            return ""

    def file(self, name: str) -> Path:
        path = Path(self.text(name))
        if name in self._environment and not path.is_file():
            self.problems.append(f"{name}: {path} is no file")
        return path

    def names(self, name: str, default: str = "") -> frozenset[str]:
        parts = (part.strip() for part in self.text(name, default).split(","))
        return frozenset(part for part in parts if part)

    def namespaces(self, name: str) -> frozenset[str]:
        found = self.names(name)
        for protected in sorted(found & PROTECTED_NAMESPACES):
            self.problems.append(f"{name}: {protected} is never touched")
        if "*" in found:
            self.problems.append(f"{name}: name each namespace, there is no wildcard")
        return found

    def nodes(self, name: str) -> Nodes:
        if self._environment.get(name) in ("yes", "no"):
            return Nodes(every=self._environment[name] == "yes")
        found = frozenset(filter(None, map(str.strip, self._environment.get(name, "").split(","))))
        for wrong in sorted(n for n in found if not _NODE.fullmatch(n)):
            self.problems.append(f"{name}: {wrong} is not the name of a node; yes means every node")
        return Nodes(found)

    def flag(self, name: str, *, default: bool = False) -> bool:
        text = self._environment.get(name) or ("yes" if default else "no")
        if text not in ("yes", "no"):
            self.problems.append(f"{name}: {text} is neither yes nor no")
        return text == "yes"

    def cluster(self, name: str) -> tuple[Path | None, str]:
        """Returns the kubeconfig, or in a pod without one the URL of the pod's own cluster."""
        host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
        if self._environment.get(name) or not host:
            return self.file(name), ""
        port = self._environment.get("KUBERNETES_SERVICE_PORT") or "443"
        return None, f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def actions(self, name: str) -> frozenset[str]:
        known = frozenset(REMEDIES)
        found = self.names(name, ",".join(sorted(known)))
        for unknown in sorted(found - known):
            self.problems.append(f"{name}: {unknown} is none of {', '.join(sorted(known))}")
        return found

    def failpoint(self, name: str) -> str:
        text = self._environment.get(name, "")
        if text and self._environment.get("AEGIS_PROFILE") != "development":
            self.problems.append(f"{name} is for development only")
        try:
            Failpoints(text)
        except ValueError as error:
            self.problems.append(f"{name}: {error}")
        return text

    def demands(self, name: str) -> Mapping[str, int]:
        try:
            return demands(self._environment.get(name, ""), frozenset(REMEDIES))
        except ValueError as error:
            self.problems.append(f"{name}: {error}")
            return {}

    def prometheus(self) -> PrometheusAt | None:
        name = "AEGIS_PROMETHEUS_URL"
        url = self._environment.get(name)
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            # Not shown: it may hold a password.
            self.problems.append(f"{name} is not the address of a Prometheus")
        found = [
            self.file(file) if self._environment.get(file) else None
            for file in ("AEGIS_PROMETHEUS_CA", "AEGIS_PROMETHEUS_TOKEN_FILE")
        ]
        if found[1] is not None and parts.scheme != "https":
            self.problems.append("AEGIS_PROMETHEUS_TOKEN_FILE: a token travels over https only")
        return PrometheusAt(url, found[0], found[1])

    def guards(self, name: str) -> Numbers:
        if not self._environment.get(name):
            return Numbers()
        try:
            return Numbers.of_file(self.file(name))
        except NumbersError as error:
            self.problems.append(f"{name}: {error}")
            return Numbers()

    def pause_file(self, name: str) -> Path | None:
        path = Path(self._environment.get(name, ""))
        if not self._environment.get(name):
            return None
        # A slip in its folder's name would be a kill switch that nobody can reach.
        if not path.is_absolute() or not path.parent.is_dir():
            self.problems.append(f"{name}: {path} must be absolute, and in a folder that is there")
        return path

    def number(self, name: str, default: float, *, least: float) -> float:
        text = self._environment.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            value = -1
        if not least <= value < math.inf:
            self.problems.append(f"{name}: {text} is not a number of at least {least:g}")
            return default
        return value

    def address(self, name: str) -> tuple[str, int] | None:
        text = self._environment.get(name)
        if not text:
            return None
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            self.problems.append(f"{name}: {text} is not host:port")
            return None
        return host, int(port)
