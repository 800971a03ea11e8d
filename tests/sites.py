"""A site for tests: its folder, and a server that says what the test tells it to."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from aegis.local.authority import Authority, Names, read_pair
from aegis.v1 import participant_pb2, participant_pb2_grpc
from aegis_learning.pinning import app_digest
from aegis_learning.schema import Categorical, Continuous, Schema
from aegis_participant.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    RecordDict,
    content_of,
)
from aegis_participant.settings import Settings
from aegis_participant.tasks import Mechanism

Request, Response = participant_pb2.AttendRequest, participant_pb2.AttendResponse

SCHEMA = Schema((Continuous("age", 0, 100), Categorical("ward", ("a", "b"))), "ill", ("no", "yes"))
MECHANISM = Mechanism(noise_multiplier=2.0, sample_rate=0.1, steps=4, clip_norm=1.0, delta=0.001)

# What a task's configuration says it shall do; imports nothing slow.
TOY = """
import os, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    began = time.monotonic_ns()
    config = message.content["config"]
    do = config.get("do", "")
    if do == "raise":
        raise RuntimeError("patient 4711 is ill")
    if do == "hang":
        time.sleep(600)
    if do == "nap":
        time.sleep(config["nap"])
    if do == "die":
        os._exit(9)
    if do == "print":
        print("patient 4711 is ill", flush=True)
    noise = np.frombuffer(os.urandom(8 * config.get("size", 4)), dtype="<u4") % 1000
    context.state["rounds"] = MetricRecord({"n": context.state["rounds"]["n"] + 1
                                            if "rounds" in context.state else 1})
    told = np.array([os.getpid(), context.state["rounds"]["n"], context.run_id % 2**31,
                     began, time.monotonic_ns()])
    return Message(RecordDict({
        "arrays": ArrayRecord({"noise": Array(noise.astype("<f4")), "told": Array(told)}),
        "metrics": MetricRecord({"num-examples": 5, "steps": int(config.get("take", 4)),
                                 "loss": 0.25, "rows": [4711]}),
        "more": ConfigRecord({"first-patient": "4711"}),
    }), reply_to=message)
"""


def rows(count: int, *, ill: int | None = None) -> str:
    """A table of so many rows, of which `ill` are; half of them unless said."""
    many = count // 2 if ill is None else ill
    lines = [f"{20 + i % 60},{'ab'[i % 2]},{'yes' if i < many else 'no'}" for i in range(count)]
    return "\n".join(["age,ward,ill", *lines]) + "\n"


@dataclass
class Ground:
    """A folder as joining leaves it, and the authority that vouches for both ends."""

    folder: Path
    pki: Path

    @classmethod
    def make(cls, tmp_path: Path, *, age_days: float = 0) -> Ground:
        """Its certificate counts for thirty days and is so old."""
        ground = cls(tmp_path / "site", tmp_path / "pki")
        ground.pki.mkdir(parents=True)
        (ground.folder / "schemas").mkdir(parents=True)
        (ground.folder / "code").mkdir()
        (ground.folder / "code" / "toyapp.py").write_text(TOY)
        (ground.folder / "schemas" / "ward.json").write_text(json.dumps(SCHEMA.to_json()))
        (ground.folder / "rows.csv").write_text(rows(40))
        authority = Authority.create(ground.pki, datetime.now(UTC), [])
        for name, names in (
            ("server", Names("spiffe://aegis.local/server/aegis", ["localhost"], ["127.0.0.1"])),
            ("site", Names("spiffe://aegis.local/participant/hospital-a")),
        ):
            age = timedelta(days=age_days if name == "site" else 0)
            authority.issue(name, names, datetime.now(UTC) - age, [], days=30)
        for source, target in (("site.crt",) * 2, ("site.key",) * 2, ("ca.crt", "roots.crt")):
            (ground.folder / target).write_bytes((ground.pki / source).read_bytes())
        return ground

    def write(self, address: str = "127.0.0.1:1", *, more: str = "", data: str = "") -> None:
        """Writes site.toml."""
        digest = app_digest(self.folder / "code").hex()
        (self.folder / "site.toml").write_text(
            f'[server]\naddress = "{address}"\n'
            '[participant]\nname = "hospital-a"\ntrust_domain = "aegis.local"\n'
            f'[data.ward]\nfile = "rows.csv"\n{data}\n'
            f'[apps.toy]\nmodule = "toyapp:app"\npath = "code"\nsha256 = "{digest}"\n{more}'
        )

    def settings(self, **how: Any) -> Settings:
        self.write(**how)
        return Settings.read(self.folder)

    def status(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return state

    @property
    def app_sha256(self) -> bytes:
        return app_digest(self.folder / "code")


def content(mechanism: Mechanism | None = MECHANISM, **config: Any) -> RecordDict:
    """What a task asks the toy to do, by the mechanism."""
    if mechanism is not None:
        config = {
            "noise-multiplier": mechanism.noise_multiplier,
            "sample-rate": mechanism.sample_rate,
            "steps": mechanism.steps,
            "clip-norm": mechanism.clip_norm,
        } | config
    record = ConfigRecord()
    record.update(config)
    arrays = ArrayRecord({"w": Array(np.zeros(3, dtype="<f4"))})
    return RecordDict({"arrays": arrays, "config": record})


_NUMBERS = itertools.count(1)


def announce(
    data: bytes, ground: Ground, *, mechanism: Mechanism | None = MECHANISM, **fields: Any
) -> Response.Task:
    """An announcement of a task with that content."""
    number = next(_NUMBERS)
    task = Response.Task(
        task_id=f"task-{number}",
        nonce=number.to_bytes(16, "big"),
        run_id="run-1",
        round=1,
        message_type="train",
        content_sha256=hashlib.sha256(data).digest(),
        content_size_bytes=len(data),
        app="toy",
        app_sha256=ground.app_sha256,
        dataset="ward",
        schema_sha256=SCHEMA.sha256,
        answer_bytes_max=1_000_000,
    )
    task.time_left.FromTimedelta(timedelta(seconds=fields.pop("seconds", 60)))
    if mechanism is not None:
        for name in ("noise_multiplier", "sample_rate", "steps", "clip_norm", "delta"):
            setattr(task.mechanism, name, getattr(mechanism, name))
    for name, value in fields.items():
        setattr(task, name, value)
    return task


@dataclass
class Given:
    """An answer, whole."""

    head: Request.Answer
    content: bytes

    @property
    def arrays(self) -> dict[str, Any]:
        (record,) = content_of(self.content).array_records.values()
        return {name: array.numpy() for name, array in record.items()}

    @property
    def told(self) -> list[int]:
        """Process, number of rounds it has done, run, and when it began and ended."""
        return [int(each) for each in self.arrays["told"]]


class Session:
    """One Attend call, seen from the server."""

    def __init__(self, hello: Request.Hello) -> None:
        self.hello = hello
        self.said: asyncio.Queue[Response | None] = asyncio.Queue()
        self.heard: asyncio.Queue[Request | None] = asyncio.Queue()
        self.heartbeats = 0

    def offer(self, task: Response.Task, data: bytes, *, chunk: int = 1000) -> None:
        self.said.put_nowait(Response(task=task))
        for start in range(0, len(data), chunk):
            part = Response.Chunk(task_id=task.task_id, data=data[start : start + chunk])
            self.said.put_nowait(Response(chunk=part))

    async def next(self, kind: str) -> Any:
        """The next thing the site says, which is of that kind; heartbeats do not count."""
        async with asyncio.timeout(30):
            message = await self.heard.get()
        assert message is not None, f"the stream ended before {kind}"
        assert kind == message.WhichOneof("part"), message
        return getattr(message, kind)

    async def answer(self) -> Given:
        """An answer and its chunks."""
        head = await self.next("answer")
        data = b""
        while len(data) < head.size_bytes:
            data += (await self.next("chunk")).data
        assert hashlib.sha256(data).digest() == head.sha256
        return Given(head, data)

    async def done(self, task: Response.Task, data: bytes) -> Given:
        """Offers a task, and waits for its receipt and answer."""
        self.offer(task, data)
        receipt = await self.next("receipt")
        assert task.task_id == receipt.task_id
        given = await self.answer()
        assert (task.task_id, task.nonce) == (given.head.task_id, given.head.nonce)
        return given

    async def refused(self, task: Response.Task, data: bytes) -> str:
        """Offers a task, and returns the reason for which it is refused."""
        self.offer(task, data)
        refusal = await self.next("refusal")
        assert task.task_id == refusal.task_id
        return str(refusal.reason)


@dataclass
class Server(participant_pb2_grpc.ParticipantServiceServicer):
    """A real gRPC server with mTLS whose streams the test holds in its hands."""

    ground: Ground
    heartbeat: float = 5.0
    echoes: bool = True
    refuse: Callable[[], Exception | None] = lambda: None
    port: int = 0
    renewed: list[bytes] = field(default_factory=list)
    _sessions: asyncio.Queue[Session] = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(self, self._server)
        pki = self.ground.pki
        pair = ((pki / "server.key").read_bytes(), (pki / "server.crt").read_bytes())
        credentials = grpc.ssl_server_credentials(
            [pair], root_certificates=(pki / "ca.crt").read_bytes(), require_client_auth=True
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def session(self) -> Session:
        async with asyncio.timeout(30):
            return await self._sessions.get()

    async def Attend(self, requests: AsyncIterator[Request], context: Any) -> Any:
        if (refusal := self.refuse()) is not None:
            await abort(context, refusal)
        first = await anext(aiter(requests))
        session = Session(first.hello)
        welcome = Response.Welcome(participant="hospital-a", node_id=1001)
        welcome.heartbeat.FromTimedelta(timedelta(seconds=self.heartbeat))
        yield Response(welcome=welcome)
        self._sessions.put_nowait(session)
        reading = asyncio.create_task(self._read(requests, session))
        try:
            while (response := await session.said.get()) is not None:
                yield response
            if (refusal := self.refuse()) is not None:
                await abort(context, refusal)
        finally:
            reading.cancel()
            session.heard.put_nowait(None)

    async def _read(self, requests: AsyncIterator[Request], session: Session) -> None:
        async for request in requests:
            if request.HasField("heartbeat"):
                session.heartbeats += 1
                if self.echoes:
                    echo = Response.Echo(number=request.heartbeat.number)
                    session.said.put_nowait(Response(echo=echo))
            else:
                session.heard.put_nowait(request)
        session.heard.put_nowait(None)
        session.said.put_nowait(None)

    async def RenewCertificate(self, request: Any, context: Any) -> Any:
        asked = x509.load_der_x509_csr(request.signing_request)
        assert asked.is_signature_valid
        pair = read_pair(self.ground.pki, "ca")
        assert pair is not None
        now = datetime.now(UTC)
        name = x509.UniformResourceIdentifier("spiffe://aegis.local/participant/hospital-a")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(pair.certificate.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .sign(pair.key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )
        self.renewed.append(certificate)
        return participant_pb2.RenewCertificateResponse(
            certificate=certificate, roots=(self.ground.pki / "ca.crt").read_bytes()
        )


async def abort(context: Any, error: Any) -> None:
    """Ends a call as our servers do."""
    from grpc_status import rpc_status

    await context.abort_with_status(rpc_status.to_status(error.to_status()))


class Site:
    """The program, as a process."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / "log").open("ab")
        self.log = folder / "log"
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "aegis_participant", "--dir", str(folder)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def terminate(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float = 20) -> int:
        async with asyncio.timeout(seconds):
            while (status := self._popen.poll()) is None:
                await asyncio.sleep(0.02)
        return status

    def close(self) -> None:
        if self._popen.poll() is None:
            self.kill()
        self._log.close()


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(pid: int) -> None:
    """Waits until a process is."""
    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.02)
