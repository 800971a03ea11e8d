"""The stack: real PostgreSQL and Valkey, real processes, and stand-ins for our own programs."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aegis.local.health import status
from aegis.local.parts import AlreadyRunning, Progress
from aegis.local.process import PartFailed
from aegis.local.stack import Stack
from aegis.local.state import read, server_address

STANDINS = Path(__file__).parent / "standins"
PARTS = ["postgres", "valkey", "sandbox", "witness", "executor", "server"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose programs are the stand-ins; fails the test if a process of it is left."""
    for name in [name for name in os.environ if name.startswith("AEGIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(STANDINS))
    folder = tmp_path / "home"
    yield folder
    left = processes_of(folder)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def processes_of(home: Path) -> list[int]:
    """Processes with the home's path in their command line or environment, ourselves excepted."""
    found = []
    needle = os.fsencode(home)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if needle in text and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def up(home: Path) -> subprocess.Popen[str]:
    """Starts a supervisor in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(STANDINS / "up.py"), str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Reads until a line holds this text."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen))


async def test_stack_comes_up_in_order_and_leaves_nothing(home: Path) -> None:
    """Every part is started after those it needs, answers, and is gone at the end."""
    seen: list[Progress] = []
    async with Stack(home, sandbox=True, on_progress=seen.append) as stack:
        migrations = ["migrations", "executor-migrations"]
        assert [p.part for p in seen if p.step == "ready"] == [*PARTS[:2], *migrations, *PARTS[2:]]
        health = await status(home)
        assert [(part.name, part.healthy) for part in health] == [(name, True) for name in PARTS]
        assert server_address(home) == stack.address
        assert len(processes_of(home)) >= len(PARTS)
    assert [p.part for p in seen if p.step == "stopped"] == PARTS[::-1]
    assert read(home) is None
    assert await status(home) == []
    assert processes_of(home) == []
    assert "server drained" in (home / "logs" / "server.log").read_text()


async def test_server_is_told_how_many_workers_it_has(home: Path) -> None:
    """By who starts the stack; the other parts are not."""
    async with Stack(home, sandbox=True, workers=3) as stack:
        told = {
            name: b"AEGIS_WORKERS=3" in Path(f"/proc/{stack.pid(name)}/environ").read_bytes()
            for name in ("server", "executor", "witness")
        }
    assert told == {"server": True, "executor": False, "witness": False}


async def test_queue_of_reviews_has_a_worker(home: Path) -> None:
    """It is there before the server and ends after it, and its end is not overlooked."""
    given = {"AEGIS_REVIEW_WORKERS": "queue", "AEGIS_REVIEW_HOLD_SECONDS": "60"}
    seen: list[Progress] = []
    with pytest.raises(PartFailed, match="review-worker was killed by SIGKILL"):
        async with Stack(home, sandbox=True, given=given, on_progress=seen.append) as stack:
            health = {part.name: part.healthy for part in await status(home)}
            assert list(health) == [*PARTS[:-1], "review-worker", "server"]
            assert all(health.values())
            told = Path(f"/proc/{stack.pid('review-worker')}/environ").read_text()
            os.kill(stack.pid("review-worker") or 0, signal.SIGKILL)
            await stack.wait()
    stopped = [p.part for p in seen if p.step == "stopped"]
    assert stopped == ["server", "review-worker", *PARTS[-2::-1]]
    assert "AEGIS_REVIEW_HOLD_SECONDS=60" in told
    assert "AEGIS_TLS" not in told
    assert "evidence.key" not in told


async def test_without_a_queue_there_is_no_worker(home: Path) -> None:
    """The server examines rounds itself."""
    async with Stack(home, sandbox=True, given={"AEGIS_REVIEW_WORKERS": "local"}):
        assert [part.name for part in await status(home)] == PARTS


async def test_second_stack_on_the_same_home_is_refused(home: Path) -> None:
    """One supervisor a home; the refusal names the process that holds it."""
    async with Stack(home, sandbox=True) as stack:
        with pytest.raises(AlreadyRunning, match=str(os.getpid())) as refusal:
            async with Stack(home, sandbox=True):
                pass
        assert refusal.value.pid == os.getpid()
        assert server_address(home) == stack.address


async def test_crash_is_reported_by_name_with_the_last_lines_of_its_log(home: Path) -> None:
    """The body is cancelled, the rest drained, and the exception says who fell and how."""
    with pytest.raises(PartFailed, match="executor was killed by SIGKILL") as failure:
        async with Stack(home, sandbox=True) as stack:
            os.kill(stack.pid("executor") or 0, signal.SIGKILL)
            await stack.wait()
    assert failure.value.name == "executor"
    assert "executor serves" in failure.value.log_tail
    assert "server drained" in (home / "logs" / "server.log").read_text()


async def test_crash_wins_over_the_error_it_caused_in_the_body(home: Path) -> None:
    """A body that fails because a part fell still ends with the name of the part."""
    with pytest.raises(PartFailed, match="server was killed by SIGKILL") as failure:
        async with Stack(home, sandbox=True) as stack:
            os.kill(stack.pid("server") or 0, signal.SIGKILL)
            time.sleep(0.2)  # noqa: ASYNC251  # the body notices before the watch can
            raise ConnectionError("the server is gone")
    assert isinstance(failure.value.__cause__, ConnectionError)


async def test_error_of_the_body_is_not_hidden(home: Path) -> None:
    """Where every part is well, what the body raised comes out, after a drain."""
    with pytest.raises(ZeroDivisionError):
        async with Stack(home, sandbox=True):
            raise ZeroDivisionError
    assert "server drained" in (home / "logs" / "server.log").read_text()


async def test_program_that_cannot_start_is_reported(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last words are in the message, and what was up already is down again."""
    monkeypatch.setenv("STANDIN_BROKEN", "executor")
    with pytest.raises(PartFailed, match=r"(?s)executor ended with status 1.*the port is taken"):
        async with Stack(home, sandbox=True):
            pass
    assert processes_of(home) == []


async def test_part_killed_on_purpose_comes_back_at_the_same_address(home: Path) -> None:
    """A restarted program is where the others were told it is."""
    async with Stack(home, sandbox=True) as stack:
        address, pid = stack.address, stack.pid("server")
        stack.kill("server")
        await asyncio.sleep(0.2)
        health = {part.name: part.healthy for part in await status(home)}
        assert health == {**dict.fromkeys(PARTS, True), "server": False}
        await stack.restart("server")
        assert stack.address == address
        assert stack.pid("server") != pid


async def test_committed_rows_survive_a_killed_postgres(home: Path) -> None:
    """After kill -9 of the postmaster the next start recovers what was committed."""
    async with Stack(home, sandbox=True) as stack:
        with psycopg.connect(stack.owner_url) as connection:
            connection.execute("create table aegis.kept as select 42 as answer")
        stack.kill("postgres")
        await stack.restart("postgres")
        with psycopg.connect(stack.database_url) as connection:
            assert connection.execute("select answer from aegis.kept").fetchone() == (42,)


@pytest.mark.parametrize(
    "line", ["first database", "part='valkey'", "part='migrations'", "part='executor'", "UP"]
)
def test_sigterm_leaves_no_process_at_any_moment_of_the_start(home: Path, line: str) -> None:
    """Stopped in the middle of any step, everything that was started is stopped."""
    process = up(home)
    wait_for(process, line)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert processes_of(home) == []
    assert read(home) is None


def test_second_signal_hurries_a_part_that_does_not_drain(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who presses Ctrl-C twice does not wait for the grace, and still leaves nothing behind."""
    monkeypatch.setenv("STANDIN_DEAF", "executor")
    process = up(home)
    wait_for(process, "UP")
    process.send_signal(signal.SIGINT)
    wait_for(process, "part='executor', step=<Step.stopping")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 10  # the grace is 15 s
    assert processes_of(home) == []


def test_killed_supervisor_is_followed_by_a_clean_start(home: Path) -> None:
    """Its database is adopted with its process id; its programs are gone or ended first."""
    first = up(home)
    wait_for(first, "UP")
    state = read(home)
    assert state is not None
    before = {part.name: part.pid for part in state.parts}
    first.kill()
    first.communicate(timeout=10)
    second = up(home)
    wait_for(second, "UP")
    state = read(home)
    assert state is not None
    after = {part.name: part.pid for part in state.parts}
    second.terminate()
    second.communicate(timeout=30)
    assert after["postgres"] == before["postgres"]
    assert all(after[name] != before[name] for name in PARTS[1:])
    assert processes_of(home) == []


def test_programs_drain_when_the_supervisor_is_killed(home: Path) -> None:
    """Linux tells them with SIGTERM; they finish what they have begun."""
    process = up(home)
    wait_for(process, "UP")
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while len(processes_of(home)) > 0 and time.monotonic() < deadline:
        text = (home / "logs" / "server.log").read_text()
        if "server drained" in text:
            break
        time.sleep(0.05)
    assert "server drained" in (home / "logs" / "server.log").read_text()
    cleaner = up(home)
    wait_for(cleaner, "UP")
    cleaner.terminate()
    cleaner.communicate(timeout=30)


async def test_servers_of_the_user_replace_the_embedded_ones(
    home: Path,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AEGIS_DATABASE_URL and AEGIS_REDIS_URL are used as given, and no password is written down."""
    monkeypatch.setenv("AEGIS_DATABASE_URL", database_url)
    monkeypatch.setenv("AEGIS_REDIS_URL", redis_url)
    async with Stack(home, sandbox=True) as stack:
        assert stack.database_url == database_url
        assert stack.redis_url == redis_url
        assert not (home / "data").exists()
        health = await status(home)
        assert [(part.name, part.healthy) for part in health] == [(name, True) for name in PARTS]
        written = (home / "run" / "state.json").read_text()
        password = database_url.split(":")[2].split("@")[0]
        assert password not in written


async def test_stack_that_is_given_nothing_uses_nothing_of_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo alters and breaks things: not in a database or cluster that happens to be named."""
    for name in ("AEGIS_DATABASE_URL", "AEGIS_REDIS_URL", "AEGIS_KUBECONFIG", "KUBECONFIG"):
        monkeypatch.setenv(name, "/somebody/elses")
    monkeypatch.setenv("AEGIS_EXECUTOR_NAMESPACES", "prod")
    async with Stack(home, given={}) as stack:
        assert stack.sandboxed
        assert "/somebody/elses" not in (stack.database_url, stack.redis_url)
        assert "prod" not in stack.namespaces
        health = await status(home)
        assert [(part.name, part.healthy) for part in health] == [(name, True) for name in PARTS]
