"""What it costs `Evaluate` to know who is asking: certificate, session, API key, or not at all.

    python bench/authentication.py
    python bench/authentication.py --seconds 5 --rounds 5 --concurrency 32

Starts a PostgreSQL and serves policy and identity as the control plane does, on the port for
certificates and the one for tokens, and on a third whose doors believe everybody: what a call costs
without authentication. Another process asks; closed loop, every way in every round, in an order
that moves on with the rounds. A token is shown by the channel, as `aegis.channel` does it, and "by
hand", as metadata of each call: the difference is the client's share. Last, the step alone, in
microseconds of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from aegis.bearer import ApiKey
from aegis.channel import Bearer, Identity, Proof, connect
from aegis.local import pki
from aegis.local.postgres import SERVER, Postgres
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.doors import Authenticate, Doors, Peer, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_server.access import Access
from aegis_server.identity.authentication import Authentication
from aegis_server.identity.buckets import LocalBuckets
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.accounts import ServiceAccounts
from aegis_server.identity.machines.keys import ApiKeys
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.machines.verification import KeyVerification, Uses
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.sessions import Sessions
from aegis_server.identity.register import Register
from aegis_server.identity.throttle import AttemptThrottle
from aegis_server.identity.tokens import AccessTokens, TokenKeys
from aegis_server.migrating import migrate
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.service import PolicyService

ADMIN = Caller("user:admin", "")
HOST = "127.0.0.1:0"


def now() -> datetime:
    return datetime.now(UTC)


async def believe(method: str, peer: Peer) -> Caller:
    return ADMIN


@dataclass(frozen=True)
class Way:
    """Where a client asks, what its channel shows, and what it shows with each call."""

    address: str
    proof: Proof
    authorization: str = ""


def measured(way: Way, seconds: float, concurrency: int) -> list[float]:
    """Returns every call's milliseconds; runs in the process that asks."""
    return uvloop.run(_measured(way, seconds, concurrency))


async def _measured(way: Way, seconds: float, concurrency: int) -> list[float]:
    latencies: list[float] = []
    request = policy_pb2.EvaluateRequest(
        subject="automation:autopilot",
        resource="/clusters/sandbox/namespaces/shop/pods/web",
        action="restart_pod",
    )
    shown = (("authorization", way.authorization),) if way.authorization else ()
    async with connect(way.address, way.proof, retries=False) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        for _ in range(20):
            await stub.Evaluate(request, timeout=30, metadata=shown)
        end = time.perf_counter() + seconds

        async def worker() -> None:
            while (start := time.perf_counter()) < end:
                await stub.Evaluate(request, timeout=30, metadata=shown)
                latencies.append((time.perf_counter() - start) * 1e3)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return latencies


class House:
    """Identity and policy over one database."""

    def __init__(self, database: Database, home: Path) -> None:
        self.home = home
        self.files = TlsFiles(
            home / "pki" / "server.crt", home / "pki" / "server.key", home / "pki" / "ca.crt"
        )
        self.audit = AuditLog(database, log_id="bench", clock=now)
        self.directory = Directory(database, clock=now)
        self.decisions = Decisions(
            database,
            cache=None,
            clock=now,
            registry=CollectorRegistry(),
            held_roles=self.directory.held_roles,
        )
        self.revisions = Revisions(database, audit=self.audit, decisions=self.decisions, clock=now)
        self.tokens = AccessTokens(
            TokenKeys(home / "pki" / "token-keys.json"),
            issuer="aegis://aegis.local",
            audience="aegis",
            clock=now,
        )
        self.uses = Uses(database)
        self.register = Register(
            database, self.audit, self.directory, clock=now, address_key=bytes(32)
        )

    def authentication(self) -> Authenticate:
        return Authentication(
            self.directory,
            certificates=by_certificate("aegis.local"),
            access_tokens=self.tokens,
            api_keys=KeyVerification(self.directory, self.uses, clock=now),
        )

    def port(self, authenticate: Authenticate) -> Port:
        doors = Doors(
            admit=Access(self.decisions, self.audit).admit,
            metrics=CallMetrics(CollectorRegistry()),
            authenticate=authenticate,
        )
        port = Port(doors=doors, tls=self.files, services=["aegis.v1.PolicyService"])
        service = PolicyService(
            decisions=self.decisions, revisions=self.revisions, audit=self.audit
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(service, port.server)
        return port

    async def session(self) -> str:
        """Makes the first administrator; returns an access token."""
        passwords = Passwords()
        throttle = AttemptThrottle(LocalBuckets(), key=bytes(32), clock=now)
        sessions = Sessions(self.register, passwords, self.tokens, throttle)
        file = self.home / "bootstrap-token"
        bootstrap = Bootstrap(self.register, passwords, sessions, throttle, file=file)
        await bootstrap.prepare()
        session = await bootstrap.make_administrator(
            file.read_text().strip(),
            email="bench@example.org",
            display_name="",
            password="many quiet figures",
            caller_address="",
        )
        passwords.close()
        return session.access_token

    async def api_key(self) -> str:
        """Makes a program's account with a key."""
        rights = Rights(self.decisions)
        await ServiceAccounts(self.register, rights).create(
            ADMIN, "bench", description="", roles=("admin",)
        )
        _, fresh = await ApiKeys(self.register, rights).create(
            ADMIN, "bench", scopes=(), lifetime=timedelta(days=1)
        )
        return fresh.text()


@asynccontextmanager
async def served(scratch: Path) -> AsyncIterator[tuple[House, dict[str, Way]]]:
    """Yields the house, and every way of asking."""
    pki.ensure(scratch / "pki")
    with Postgres(
        scratch / "data", run=scratch / "run", log=scratch / "postgres.log", outlives_us=False
    ) as server:
        await migrate(server.url())
        database = Database(server.url(SERVER), application="bench")
        await database.open()
        house = House(database, scratch)
        running = [
            asyncio.create_task(part)
            for part in (house.audit.run(), house.directory.run(), house.uses.run())
        ]
        await house.revisions.ensure_first()
        await house.decisions.open()
        await house.directory.open()
        believing, asking = house.port(believe), house.port(house.authentication())
        trusted = await believing.open(HOST)
        address = await asking.open(HOST, HOST)
        roots, tokens = house.files.roots, asking.token_address
        session, key = await house.session(), await house.api_key()
        certificate = Identity.of("admin", scratch)
        yield (
            house,
            {
                "nobody is asked": Way(trusted, certificate),
                "certificate": Way(address, certificate),
                "session": Way(tokens, Bearer(roots, session)),
                "session, by hand": Way(tokens, Bearer(roots), f"Bearer {session}"),
                "API key": Way(tokens, ApiKey(roots, text=key)),
                "API key, by hand": Way(tokens, Bearer(roots), f"Bearer {key}"),
            },
        )
        await believing.close(1)
        await asking.close(1)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await database.close()


async def the_step_alone(house: House, ways: dict[str, Way]) -> None:
    authenticate = house.authentication()
    certificate = (house.home / "pki" / "admin.crt").read_bytes()
    peers = {"certificate": Peer(lambda: {"x509_pem_cert": [certificate]}, "", "127.0.0.1")}
    peers |= {
        name: Peer(dict, way.authorization, "127.0.0.1")
        for name, way in ways.items()
        if way.authorization
    }
    for name, peer in peers.items():
        began = time.perf_counter()
        for _ in range(10_000):
            await authenticate("/aegis.v1.PolicyService/Evaluate", peer)
        print(f"the step alone  {name:16s} {(time.perf_counter() - began) * 100:7.1f} us")
    fresh = [house.tokens.issue(f"user:{number}", "bench")[0] for number in range(500)]
    began = time.perf_counter()
    for token in fresh:
        house.tokens.verify(token)
    took = (time.perf_counter() - began) / len(fresh) * 1e6
    print(f"the step alone  a session's first call {took:.0f} us")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as clients,
    ):
        async with served(Path(scratch)) as (house, ways):
            print(f"load {os.getloadavg()}, {os.cpu_count()} cores")
            for concurrency in options.concurrency:
                medians: dict[str, list[float]] = {name: [] for name in ways}
                order = list(ways)
                for _ in range(options.rounds):
                    order = order[1:] + order[:1]
                    for name in order:
                        took = await loop.run_in_executor(
                            clients, measured, ways[name], options.seconds, concurrency
                        )
                        medians[name].append(statistics.median(took))
                plain = statistics.median(medians["nobody is asked"])
                for name, each in medians.items():
                    median = statistics.median(each)
                    print(
                        f"{concurrency:3d} in flight  {name:16s} {median:7.3f} ms"
                        f"  {100 * (median / plain - 1):+6.1f} %"
                    )
            await the_step_alone(house, ways)
            print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    uvloop.run(main())
