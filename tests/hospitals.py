"""A whole Aegis and hospitals that joined it: everything in processes of its own, over mTLS.

    with House(folder) as house:
        north = house.hospital("north", rows)
        north.start()
        run_id = house.start(house.plan(names=["north", ...]))

Synchronous, so that one house serves all tests of a file; the stack lives in a thread.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import psycopg
from google.protobuf.duration_pb2 import Duration

from aegis.channel import connect
from aegis.local.stack import Stack
from aegis.plans import default_plan
from aegis.v1 import (
    model_pb2,
    model_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from aegis_learning.datasets import SCHEMA, Split, load, partition
from aegis_learning.pinning import app_digest
from aegis_participant.workers import flower_run_id
from tests.commands import aegis, command
from tests.processes import descendants, gone, until

Result = TypeVar("Result")
Run = training_pb2.Run

DATASET = "breast-cancer"
WARD = Path(__file__).parent / "apps" / "ward"
_LOOK = 0.1  # seconds; whoever asks a server keeps it busy
ENDED = (Run.STATE_COMPLETED, Run.STATE_STOPPED, Run.STATE_FAILED)


def dealt(sites: int, *, seed: int = 7) -> list[Split]:
    """The rows of the data set that ships, dealt to so many sites, far from evenly."""
    return partition(load(DATASET).shared, sites, 1.0, seed)


def write_rows(file: Path, rows: Split) -> None:
    """Writes rows as a hospital has them: in the units of the schema, with words for classes."""
    low = [each.low for each in SCHEMA.features]  # type: ignore[union-attr]
    high = [each.high for each in SCHEMA.features]  # type: ignore[union-attr]
    with file.open("w", newline="") as output:
        table = csv.writer(output)
        table.writerow([*(each.name for each in SCHEMA.features), SCHEMA.label])
        for x, y in zip(rows.x.tolist(), rows.y.tolist(), strict=True):
            values = [lo + (v + 1) / 2 * (hi - lo) for v, lo, hi in zip(x, low, high, strict=True)]
            table.writerow([*values, SCHEMA.classes[y]])


class Hospital:
    """A site: its folder, and its program."""

    def __init__(self, house: House, name: str, folder: Path, examples: int) -> None:
        self.name = name
        self.folder = folder
        self.examples = examples
        self.log = folder / "log"
        self._house = house
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts the program as its operator would."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                aegis("participant", "run", "--dir", str(self.folder)),
                stdout=output,
                stderr=output,
            )
        return self

    def present(self) -> Self:
        """Waits until it attends."""
        until(lambda: self.status().get("state") == "attending", self.log.read_text, 60)
        return self

    def kill(self) -> None:
        """kill -9; returns when what it had started has noticed."""
        assert self._process is not None
        started = descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        until(lambda: gone(started), self._house.words)

    def stop(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            finally:
                self.kill()

    def ended(self, seconds: float = 30) -> int:
        """Waits for its end by itself, and returns the exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def status(self) -> dict[str, Any]:
        """What it says of itself, if it was started already."""
        try:
            state: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    def hold(self) -> None:
        """Whoever trains there goes no further."""
        (self.folder / "hold").touch()

    def release(self) -> None:
        """Training goes on."""
        (self.folder / "hold").unlink(missing_ok=True)

    def poison(self, what: str) -> None:
        """The application sends something else from now on; "" makes it honest again."""
        file = self.folder / "poison"
        file.write_text(what) if what else file.unlink(missing_ok=True)

    def limit(self, epsilon: float) -> None:
        """Sets what its rows may cost, for the next start."""
        settings = self.folder / "site.toml"
        text = settings.read_text()
        settings.write_text(re.sub(r"epsilon_limit = [0-9.]+", f"epsilon_limit = {epsilon}", text))

    def diary(self, run_id: str, what: str) -> list[int]:
        """The rounds of a run that the application has "begun", "held" or "done", in order."""
        file = self.folder / "diary"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        known = str(flower_run_id(run_id))
        return [int(number) for run, number, did in lines if (run, did) == (known, what)]

    def reached(self, run_id: str, number: int, what: str = "begun") -> None:
        """Waits until the application has come so far."""
        until(lambda: number in self.diary(run_id, what), self._house.words, 90)

    def held(self, run_id: str, *, after: int = 0) -> int:
        """Waits until a round behind `after` is held up there, and returns its number."""

        def held_in() -> int:
            held, done = self.diary(run_id, "held"), self.diary(run_id, "done")
            return held[-1] if held and held[-1] > max(after, *done, 0) else 0

        number: int = until(held_in, self._house.words, 90)
        return number

    def steps(self, run_id: str) -> int:
        """What its own ledger counts for a run."""
        lines = [json.loads(each) for each in (self.folder / "ledger").read_text().splitlines()]
        reserved = {
            line["reserve"]: line["steps"]
            for line in lines
            if "reserve" in line and line["run"] == run_id
        }
        settled = {line["settle"]: line["steps"] for line in lines if "settle" in line}
        return sum(settled.get(task, steps) for task, steps in reserved.items())


class House:
    """The control plane of `aegis up`, in a folder of its own; `given` is what its user says."""

    def __init__(self, folder: Path, **given: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._given = given
        self.metrics = folder / "metrics"
        self.hospitals: dict[str, Hospital] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._over = asyncio.Event()
        self._up: Future[None] = Future()
        self._serving: Future[None] | None = None
        self._channel: grpc.aio.Channel | None = None

    def __enter__(self) -> Self:
        self.metrics.mkdir()
        self._thread.start()
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        self._serving.add_done_callback(self._fallen)
        try:
            self._up.result(120)
            limit = privacy_pb2.SetPrivacyLimitRequest(
                dataset=DATASET, participant="*", epsilon_limit=1000, delta=1e-5, reason="tests"
            )
            self.call(privacy_pb2_grpc.PrivacyServiceStub, "SetPrivacyLimit", limit)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.hospitals.values():
            each.release()
            each.stop()
        self._end()

    def _end(self) -> None:
        assert self._serving is not None
        self.run(self._hang_up())
        self._loop.call_soon_threadsafe(self._over.set)
        try:
            self._serving.result(60)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    async def _serve(self) -> None:
        given = {**os.environ, "AEGIS_METRICS": str(self.metrics), **self._given}
        async with Stack(self.home, sandbox=True, given=given) as self.stack:
            self._up.set_result(None)
            await self._over.wait()

    def _fallen(self, serving: Future[None]) -> None:
        if not self._up.done():
            self._up.set_exception(serving.exception() or RuntimeError("ended at once"))

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs something where the stack lives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def call(self, stub: Callable[[Any], Any], method: str, request: Any) -> Any:
        """Calls the server as user:admin; what is streamed comes as a list."""

        async def ask() -> Any:
            if self._channel is None:
                self._channel = connect(self.stack.address, self.stack.identity("admin"))
            called = getattr(stub(self._channel), method)(request, timeout=30)
            return [each async for each in called] if hasattr(called, "read") else await called

        return self.run(ask())

    async def _hang_up(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def forget_rule(self, name: str) -> None:
        """Takes a rule out of the policy."""
        stub = policy_pb2_grpc.PolicyServiceStub
        rules = self.call(stub, "GetPolicy", policy_pb2.GetPolicyRequest()).csv.splitlines()
        kept = "\n".join(rule for rule in rules if not rule.endswith(name))
        self.call(stub, "ImportPolicy", policy_pb2.ImportPolicyRequest(csv=kept, reason="tests"))

    def aegis(self, *arguments: str, text: str = "") -> dict[str, Any]:
        """A command of `aegis` as user:admin, and what it answers."""
        done = command("--home", self.home, *arguments, "--output", "json", stdin=text)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def hospital(self, name: str, rows: Split, *, module: str = "ward.client") -> Hospital:
        """Invites a site, lets it join and add its rows; its program is not started.

        `module` is what trains there, in tests/apps/ward.
        """
        folder, csv_file = self.folder / name, self.folder / f"{name}.csv"
        write_rows(csv_file, rows)
        invited = self.aegis("participant", "invite", name, "--dataset", f"{DATASET}=500")
        self.aegis("participant", "join", "-", "--dir", str(folder), text=invited["token"])
        added = self.aegis(
            *("participant", "data", "add", DATASET, str(csv_file), "--dir", str(folder))
        )
        assert (added["rows"], added["dropped"]) == (len(rows), {})
        settings = folder / "site.toml"
        settings.write_text(
            f'{settings.read_text()}\n[metrics]\nstore = "{self.metrics}"\n[apps.ward]\n'
            f'module = "{module}:app"\n'
            f'path = "{WARD}"\nsha256 = "{app_digest(WARD).hex()}"\n'
            f'node_config = {{ folder = "{folder}" }}\n[apps.aegis]\n'
        )
        made = self.hospitals[name] = Hospital(self, name, folder, len(rows))
        made.limit(900.0)
        return made

    def plan(self, names: Sequence[str], *, ward: bool = True, **changes: Any) -> Any:
        """A private run of those sites by the application that can be held up, unless `ward`."""
        plan = default_plan(seed=7, participants=max(len(names), 2))
        plan.simulation, plan.sites = False, training_pb2.SITES_ENROLLED
        plan.names.extend(names)
        plan.min_participants = 2
        plan.local_steps, plan.rounds, plan.target_epsilon = 2, 4, 2.0
        if ward:
            plan.model = "logistic"
            plan.app.name, plan.app.sha256 = "ward", app_digest(WARD)
        for name, value in changes.items():
            if isinstance(value, Duration):
                getattr(plan, name).CopyFrom(value)
            else:
                setattr(plan, name, value)
        return plan

    def training(self, method: str, **fields: Any) -> Any:
        """Calls TrainingService."""
        request = getattr(training_pb2, f"{method}Request")(**fields)
        return self.call(training_pb2_grpc.TrainingServiceStub, method, request)

    def start(self, plan: training_pb2.RunPlan) -> str:
        """Starts a run and returns its id."""
        answer = self.training("StartRun", request_id=str(uuid.uuid4()), plan=plan)
        return str(answer.run.run_id)

    def look(self, run_id: str) -> training_pb2.Run:
        """The run as it stands."""
        run: training_pb2.Run = self.training("GetRun", run_id=run_id).run
        return run

    def until_round(self, run_id: str, number: int) -> None:
        """Waits until that round is stored."""
        until(lambda: self.look(run_id).rounds_completed >= number, self.words, 90)

    def until_state(self, run_id: str, *states: int, seconds: float = 120) -> training_pb2.Run:
        """Waits until the run is in one of those states, and returns it."""

        def there() -> training_pb2.Run | None:
            run = self.look(run_id)
            assert run.state in states or run.state not in ENDED, run.reason
            return run if run.state in states else None

        run: training_pb2.Run = until(there, self.words, seconds, every=_LOOK)
        return run

    def coordinator(self, run_id: str) -> int:
        """Process id of the run's coordinator."""

        def found() -> int | None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        words = (entry / "cmdline").read_bytes().split(b"\0")
                    except OSError:
                        continue
                    if b"aegis_server.training.coordinator" in words and run_id.encode() in words:
                        return int(entry.name)
            return None

        pid: int = until(found, self.words)
        return pid

    def kill_server(self) -> None:
        """kill -9 of the server, which takes its coordinators along."""
        self.stack.kill("server")
        self.run(self._hang_up())

    def restart_server(self) -> None:
        """Starts it where it was."""
        self.run(self.stack.restart("server"))

    def select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the server's database."""
        with psycopg.connect(self.stack.owner_url) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def tasks(self, run_id: str) -> list[tuple[Any, ...]]:
        """(participant, round, repeat, steps_spent, whether it was received) of each task."""
        return self.select(
            "select participant, round, repeat, steps_spent, received_at is not null"
            " from aegis.training_task where run_id = %s order by participant, round, repeat",
            run_id,
        )

    def paid(self, run_id: str) -> dict[str, int]:
        """Steps the server's privacy ledger counts for a run, by participant."""
        found = self.select(
            "select participant, steps from aegis.privacy_entry where run_id = %s and settled",
            run_id,
        )
        return dict(found)

    def model(self, digest: bytes) -> bytes:
        """A model's bytes."""
        request = model_pb2.DownloadModelRequest(model_id=digest.hex())
        parts = self.call(model_pb2_grpc.ModelServiceStub, "DownloadModel", request)
        return b"".join(part.chunk for part in parts)

    def words(self) -> str:
        """What everybody logged last, for a test that fails."""
        logs = [*self.home.glob("logs/server*.log"), *self.home.glob("**/run-*.log")]
        logs += [each.log for each in self.hospitals.values()]
        logs += [each.folder / "worker.log" for each in self.hospitals.values()]
        return "\n".join(f"== {log}\n{log.read_text()[-1500:]}" for log in logs if log.exists())


def seconds_between(run: training_pb2.Run, number: int) -> float:
    """Seconds from the end of the round before to the end of that round."""
    ends = {each.round: each.complete_time.ToNanoseconds() / 1e9 for each in run.rounds}
    return ends[number] - ends[number - 1]
