"""The embedded PostgreSQL and Valkey: what they promise, and what they refuse."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from aegis.local import cluster, unprivileged, valkey
from aegis.local.postgres import EXECUTOR, SERVER, Postgres
from aegis.local.process import PartFailed, birth, end_stranger
from aegis.local.unprivileged import CannotRun, Unprivileged
from aegis.local.valkey import Valkey
from aegis.serving.database import migrate
from aegis_server import migrating


def make(home: Path, **options: object) -> Postgres:
    """A PostgreSQL with its files in this folder, which dies with the tests."""
    return Postgres(
        home / "data",
        run=home / "run",
        log=home / "postgres.log",
        outlives_us=False,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a cluster that never ran: copying it is cheaper than initdb."""
    home = tmp_path_factory.mktemp("template")
    make(home).prepare()
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the template."""
    shutil.copytree(template, tmp_path / "home", symlinks=True)
    yield tmp_path / "home"
    shutil.rmtree(tmp_path / "home")


def test_password_and_socket_are_the_only_way_in(home: Path) -> None:
    """No TCP port; the right socket with a wrong password is refused; files are private."""
    with make(home) as postgres:
        with psycopg.connect(postgres.url()) as connection:
            assert connection.execute("show listen_addresses").fetchone() == ("",)
            assert connection.execute("show data_checksums").fetchone() == ("on",)
            assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
            row = connection.execute(
                "select rolpassword from pg_authid where rolname = %s", [SERVER]
            )
            assert str(row.fetchone()).startswith("('SCRAM-SHA-256$")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.url(), password="guess")
        socket = Path(postgres.address)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    for file in (home / "data").glob("*.password"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (home / "data" / "pgdata.new").exists()


async def test_server_role_may_add_to_the_audit_log_and_never_change_it(
    database_url: str, server_database_url: str
) -> None:
    """Of the log the server keeps SELECT and INSERT; other tables give it all by default."""
    await migrating.migrate(database_url)
    with psycopg.connect(server_database_url) as connection:
        rights = connection.execute(
            "select table_name, string_agg(privilege_type, ' ' order by privilege_type)"
            " from information_schema.table_privileges"
            " where grantee = 'aegis_server' and table_schema = 'aegis' group by table_name"
        )
        found = dict(rights.fetchall())
    assert found.pop("audit_record") == "INSERT SELECT"
    assert found["schema_migration"] == "DELETE INSERT SELECT UPDATE"


async def test_server_and_executor_do_not_see_each_other(
    database_url: str, server_database_url: str, executor_database_url: str
) -> None:
    """Each role is refused at the door of the other's schema, and neither may create anything."""
    await migrating.migrate(database_url)
    await migrate(database_url, "aegis_executor", "aegis_executor")
    with psycopg.connect(executor_database_url, autocommit=True) as connection:
        assert connection.execute("select count(*) from aegis_executor.intent").fetchone() == (0,)
        for statement in (
            "select * from aegis.audit_record",
            "create table public.x (id int)",
            "create table aegis_executor.x (id int)",
            "delete from aegis_executor.intent",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    with psycopg.connect(server_database_url, autocommit=True) as connection:
        for statement in ("select * from aegis_executor.intent", "create table aegis.x (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_left_behind_server_is_adopted_and_stopped(home: Path) -> None:
    """A second supervisor takes over the process that the first one left, and ends it."""
    script = (
        "import os, sys; from pathlib import Path; from aegis.local.postgres import Postgres;"
        "h = Path(sys.argv[1]); p = Postgres(h / 'data', run=h / 'run', log=h / 'postgres.log');"
        "p.prepare(); p.start(); p.wait_until_ready(); print(p.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    with make(home) as postgres:
        assert postgres.adopted
        assert postgres.pid == pid
        with psycopg.connect(postgres.url(EXECUTOR)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert postgres.exit_status() is None
    assert birth(pid) is None


def test_stale_process_file_is_no_server_to_adopt(home: Path) -> None:
    """The number in postmaster.pid may be anybody's by now: nobody is adopted, nobody is killed."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (home / "data" / "pgdata" / "postmaster.pid").write_text(
            f"{bystander.pid}\n{home}/data/pgdata\n0\n5432\n{home}/run\n\n0 0\nready\n"
        )
        postgres = make(home)
        postgres.prepare()
        postgres.start()
        adopted = postgres.adopted
        postgres.stop()
        assert not adopted
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_killed_initdb_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """A half-made database is thrown away and made again."""
    (tmp_path / "data" / "pgdata.new" / "base").mkdir(parents=True)
    make(tmp_path).prepare()
    assert (tmp_path / "data" / "pgdata" / "PG_VERSION").exists()
    assert not (tmp_path / "data" / "pgdata.new").exists()


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    """The message names both versions and what to do; nothing is touched."""
    version = home / "data" / "pgdata" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(CannotRun, match="made by PostgreSQL 12"):
        make(home).prepare()
    assert version.read_text() == "12\n"


def test_deep_home_gets_a_short_socket(template: Path, tmp_path: Path) -> None:
    """Socket paths end at 107 bytes: a deep home uses a private temporary folder, removed again."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    shutil.copytree(template, deep)
    with make(deep) as postgres:
        folder = Path(postgres.address).parent
        assert not folder.is_relative_to(deep)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with psycopg.connect(postgres.url()) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    assert not folder.exists()


def test_failing_server_is_reported_with_its_own_words(home: Path) -> None:
    """What PostgreSQL says on its way out is in the exception."""
    with (
        pytest.raises(PartFailed, match="unrecognized configuration parameter"),
        make(home, settings={"no_such_setting": "1"}),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces_uses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a container forbids namespaces, the real `nobody` runs it, or the refusal says why."""
    real = unprivileged._succeeds
    monkeypatch.setattr(
        unprivileged, "_succeeds", lambda *command: command[0] != "unshare" and real(*command)
    )
    tmp_path.chmod(0o700)
    with pytest.raises(CannotRun, match="run as an ordinary user"):
        Unprivileged.here(tmp_path / "home" / "data", cluster.find_binaries())
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL of the system, which alone `nobody` can reach for certain")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        home.chmod(0o755)
        with make(home, binaries=binaries[-1]) as postgres:
            nobody = Unprivileged.here(home / "data", binaries[-1]).owner
            assert (home / "data" / "pgdata").stat().st_uid == nobody
            with psycopg.connect(postgres.url()) as connection:
                assert connection.execute("select 1").fetchone() == (1,)


def test_missing_servers_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without binaries the message names the package, the system's and the variable."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CannotRun, match="AEGIS_DATABASE_URL"):
        cluster.find_binaries()
    with pytest.raises(CannotRun, match="AEGIS_REDIS_URL"):
        valkey.find_binary()


def test_wheels_are_not_imported() -> None:
    """Their import alone would warn, add users or open folders."""
    script = (
        "import sys, aegis.local.stack; from aegis.local import cluster, valkey;"
        "cluster.find_binaries(); valkey.find_binary();"
        "print([m for m in sys.modules if m.startswith(('embedded_', 'pixeltable', 'valkey_',"
        " 'psycopg', 'torch', 'casbin', 'flwr'))])"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output.strip() == "[]"


def test_valkey_is_private_and_bounded(redis_url: str) -> None:
    """A socket for us alone, no port, no file on disk, and old entries give way to new ones."""
    with redis.Redis.from_url(redis_url) as client:
        config = client.config_get("*")
    assert config["port"] == "0"
    assert config["save"] == ""
    assert config["appendonly"] == "no"
    assert (config["maxmemory"], config["maxmemory-policy"]) == (str(64 << 20), "allkeys-lru")


def test_left_behind_valkey_is_replaced(tmp_path: Path) -> None:
    """It holds nothing worth adopting: the old one is shut down, and a new one answers."""
    with (
        Valkey(run=tmp_path / "run", log=tmp_path / "first.log") as first,
        Valkey(run=tmp_path / "run", log=tmp_path / "second.log") as second,
    ):
        assert first.exit_status() == 0
        assert second.is_ready()


def test_stranger_with_a_recycled_number_is_not_killed() -> None:
    """A process id whose birth is another one belongs to somebody else."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        end_stranger(bystander.pid, "another birth")
        assert bystander.poll() is None
        born = birth(bystander.pid)
        assert born is not None
        end_stranger(bystander.pid, born)
        assert bystander.wait(5) == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()
