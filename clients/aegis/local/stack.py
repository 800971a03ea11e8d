"""`Stack`: a whole Aegis of one home.

async with Stack(home, on_progress=print) as stack:
    await stack.wait()
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from aegis.channel import Identity, default_home
from aegis.local import laptop, pki
from aegis.local.parts import OnProgress, Progress, Step
from aegis.local.postgres import EXECUTOR, OWNER, SERVER, Postgres
from aegis.local.process import Program
from aegis.local.programs import (
    Background,
    Service,
    clean_environment,
    executor_environment,
    python,
    review_worker_environment,
    server_environment,
    witness_environment,
)
from aegis.local.sockets import private_directory
from aegis.local.supervisor import Supervisor
from aegis.local.unprivileged import CannotRun
from aegis.local.valkey import Valkey

_MIGRATE_SECONDS = 120.0
# Two of those a fresh sandbox has; the others are there to be refused.
_SANDBOX_NAMESPACES = ("demo", "shop")


class Stack:
    """Everything of one home; an async context manager.

    Entering starts it all and raises `AlreadyRunning`, `CannotRun` or `PartFailed` with nothing
    left behind. If a part ends by itself later, the body is cancelled, the rest is drained, and
    leaving raises `PartFailed`. `sandbox` insists on the sandbox cluster where a kubeconfig is
    set; `environment` adds variables to the part it names; `workers` is how many processes the
    server has, one where nobody says otherwise. `given` is what the user said, our own
    environment unless told otherwise: AEGIS_DATABASE_URL and AEGIS_REDIS_URL in it replace the
    embedded servers, and an empty one is for what must not touch anything of the user's.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        on_progress: OnProgress = lambda progress: None,
        listen: str = "127.0.0.1:0",
        sandbox: bool = False,
        namespaces: Sequence[str] | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        workers: int | None = None,
        given: Mapping[str, str] = os.environ,
    ) -> None:
        self.home = (home or default_home()).absolute()
        self.database_url = ""
        self.owner_url = ""
        self.redis_url: str | None = None
        self._listen = listen
        self._sandbox = sandbox
        self._namespaces = namespaces
        self._environment = environment or {}
        self._workers = {} if workers is None else {"AEGIS_WORKERS": str(workers)}
        self._given = given
        self._executor_url = ""
        self._executor_owner_url = ""
        self._supervisor = Supervisor(self.home, on_progress)
        self._exit = AsyncExitStack()

    @property
    def address(self) -> str:
        """host:port of the control plane."""
        return self._supervisor.parts["server"].address

    @property
    def token_address(self) -> str:
        """host:port of the control plane for callers without a certificate."""
        return self._supervisor.parts["server"].token_address

    @property
    def executor_address(self) -> str:
        """host:port of the executor."""
        return self._supervisor.parts["executor"].address

    @property
    def kubeconfig(self) -> Path:
        """The cluster the executor acts on."""
        named = self._given.get("AEGIS_KUBECONFIG") or self._given.get("KUBECONFIG")
        return Path(named) if named and not self._sandbox else self._sandbox_kubeconfig

    @property
    def sandboxed(self) -> bool:
        """True when that cluster is the sandbox."""
        return self.kubeconfig == self._sandbox_kubeconfig

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where the executor may act; nowhere in a real cluster, unless somebody says so."""
        if self._namespaces is not None:
            return tuple(self._namespaces)
        return _SANDBOX_NAMESPACES if self.sandboxed else ()

    @property
    def executor_given(self) -> Mapping[str, str]:
        """What the executor is told beyond its wiring; the user's own word wins."""
        usual = laptop.settings(self.home) if self.sandboxed else {}
        return {**usual, **self._given}

    @property
    def _sandbox_kubeconfig(self) -> Path:
        return self.home / "sandbox" / "kubeconfig"

    def pid(self, name: str) -> int | None:
        """Process id of a part."""
        return self._supervisor.parts[name].pid

    def identity(self, name: str) -> Identity:
        """A certificate of this home, e.g. `admin`."""
        return Identity.of(name, self.home)

    async def __aenter__(self) -> Self:
        """Starts everything."""
        async with AsyncExitStack() as undo:
            await undo.enter_async_context(self._supervisor)
            await self._start()
            self._exit = undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops everything, in reverse."""
        await self._exit.__aexit__(kind, error, trace)

    async def wait(self) -> None:
        """Waits until the stack falls: a part ends by itself, or we are cancelled."""
        await asyncio.Event().wait()

    def kill(self, name: str) -> None:
        """Ends a part at once, as a power cut would; not reported as a crash."""
        self._supervisor.kill(name)

    async def restart(self, name: str) -> None:
        """Stops a part if it still runs, and starts it again where it was."""
        await self._supervisor.restart(name)

    async def _start(self) -> None:
        for folder in ("logs", "blobs"):
            private_directory(self.home / folder)
        pki.ensure(self.home / "pki")
        await self._start_database()
        await self._start_cache()
        await self._migrate()
        if self.sandboxed:
            await self._supervisor.add(self._sandbox_service())
        await self._supervisor.add(self._witness_service())
        await self._supervisor.add(self._executor_service())
        if self._given.get("AEGIS_REVIEW_WORKERS") == "queue":
            # Before the server, so that it ends after: a run that drains may wait for verdicts.
            await self._supervisor.add(self._review_worker())
        await self._supervisor.add(self._server_service())

    async def _start_database(self) -> None:
        given = self._given.get("AEGIS_DATABASE_URL")
        if given:
            self.database_url = given
            self.owner_url = self._given.get("AEGIS_MIGRATION_URL") or given
            self._executor_url = self._given.get("AEGIS_EXECUTOR_DATABASE_URL") or given
            self._executor_owner_url = (
                self._given.get("AEGIS_EXECUTOR_MIGRATION_URL")
                or self._given.get("AEGIS_MIGRATION_URL")
                or self._executor_url
            )
            self._supervisor.note_outside("postgres", _address(given, default_port=5432))
            return
        postgres = Postgres(
            self.home / "data", run=self.home / "run", log=self.home / "logs" / "postgres.log"
        )
        if not (self.home / "data" / "pgdata").exists():
            self._supervisor.report(
                Progress("postgres", Step.starting, "making its first database")
            )
        # Leaves files, never a process: if we are cancelled meanwhile it just comes to its end.
        await asyncio.to_thread(postgres.prepare)
        await self._supervisor.add(postgres)
        self.owner_url = postgres.url(OWNER)
        self.database_url = postgres.url(SERVER)
        self._executor_url = postgres.url(EXECUTOR)
        self._executor_owner_url = self.owner_url

    async def _start_cache(self) -> None:
        given = self._given.get("AEGIS_REDIS_URL")
        if given:
            self.redis_url = given
            self._supervisor.note_outside("valkey", _address(given, default_port=6379))
            return
        try:
            valkey = Valkey(run=self.home / "run", log=self.home / "logs" / "valkey.log")
        except CannotRun as error:
            # A cache only saves time; the server keeps a smaller one inside.
            self._supervisor.report(Progress("valkey", Step.missing, f"{error}; going on without"))
            return
        await self._supervisor.add(valkey)
        self.redis_url = valkey.url

    async def _migrate(self) -> None:
        # Only these short-lived processes are ever told the owner's password.
        for name, package, owner in (
            ("migrations", "aegis_server", {"AEGIS_MIGRATION_URL": self.owner_url}),
            (
                "executor-migrations",
                "aegis_executor",
                {"AEGIS_EXECUTOR_MIGRATION_URL": self._executor_owner_url},
            ),
        ):
            migrations = Program(
                name,
                python(package, "migrate"),
                environment={**clean_environment(), **owner},
                log=self.home / "logs" / f"{name}.log",
            )
            await self._supervisor.run(migrations, seconds=_MIGRATE_SECONDS)

    def _sandbox_service(self) -> Service:
        folder = private_directory(self.home / "sandbox")
        return Service(
            "sandbox",
            lambda listen: python("aegis_sandbox", "--listen", listen, "--home", str(folder)),
            environment={**clean_environment(), **self._environment.get("sandbox", {})},
            home=self.home,
        )

    def _witness_service(self) -> Service:
        return Service(
            "witness",
            lambda listen: python("aegis_witness"),
            environment={**witness_environment(self.home), **self._environment.get("witness", {})},
            home=self.home,
            asked_as=self.identity("admin"),
        )

    def _executor_service(self) -> Service:
        environment = executor_environment(
            self.home,
            database_url=self._executor_url,
            kubeconfig=self.kubeconfig,
            cluster="sandbox" if self.sandboxed else "kubernetes",
            namespaces=self.namespaces,
            witness_address=self._supervisor.parts["witness"].address,
            given=self.executor_given,
        )
        return Service(
            "executor",
            lambda listen: python("aegis_executor"),
            environment={**environment, **self._environment.get("executor", {})},
            home=self.home,
            asked_as=self.identity("admin"),
        )

    def _review_worker(self) -> Background:
        environment = review_worker_environment(
            self.home, database_url=self.database_url, given=self._given
        )
        return Background(
            "review-worker",
            python("aegis_server", "review-worker"),
            environment={**environment, **self._environment.get("review-worker", {})},
            home=self.home,
        )

    def _server_service(self) -> Service:
        environment = server_environment(
            self.home,
            database_url=self.database_url,
            redis_url=self.redis_url,
            executor_address=self.executor_address,
            witness_address=self._supervisor.parts["witness"].address,
            given={**self._given, **self._workers},
        )
        return Service(
            "server",
            lambda listen: python("aegis_server"),
            environment={**environment, **self._environment.get("server", {})},
            home=self.home,
            listen=self._listen,
            token_listen=_next_port(self._listen),
            asked_as=self.identity("admin"),
        )


def _next_port(listen: str) -> str:
    """Returns the address for callers without a certificate: one port further, or any free one."""
    host, _, port = listen.rpartition(":")
    return f"{host}:{int(port) + 1 if port != '0' else 0}"


def _address(url: str, *, default_port: int) -> str:
    """Returns where a URL points, without its password: host:port or the path of a socket."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    folder = parse_qs(parts.query).get("host", ["localhost"])[0]
    if parts.hostname is None and folder.startswith("/"):
        return f"{folder}/.s.PGSQL.{parts.port or default_port}"
    return f"{parts.hostname or folder}:{parts.port or default_port}"
