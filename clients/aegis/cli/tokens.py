"""Who is logged in on this machine: HOME/session.json, readable by its owner alone.

A refresh token works once, and a second use would end the session. So whoever refreshes holds a
lock from before it reads the file until the new tokens are in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from aegis.channel import Bearer, connect
from aegis.errors import Unauthenticated, Unavailable, from_rpc_error
from aegis.v1 import session_pb2, session_pb2_grpc

_SECONDS = 30.0
# An access token that ends sooner than this is replaced before a command begins.
_LEFT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session and the address it was begun at; times are in ISO 8601.

    One of `kind` "oidc" goes on at the provider it was begun at, as this client of it.
    """

    address: str
    subject: str
    access_token: str = field(repr=False)
    access_ends_at: str
    refresh_token: str = field(repr=False)
    refresh_ends_at: str
    kind: str = "session"
    issuer: str = ""
    client_id: str = ""

    @classmethod
    def of(cls, address: str, session: session_pb2.Session) -> StoredSession:
        """Returns what is kept of a session."""
        return cls(
            address,
            session.subject,
            session.access_token,
            _text(session.access_expire_time.ToDatetime()),
            session.refresh_token,
            _text(session.refresh_expire_time.ToDatetime()),
        )

    def lasts(self) -> bool:
        """True while the access token is good for a command."""
        return datetime.fromisoformat(self.access_ends_at) - datetime.now(UTC) > _LEFT


def read(home: Path) -> StoredSession | None:
    """Returns the session, or None when nobody is logged in or the file makes no sense."""
    try:
        return StoredSession(**json.loads(_file(home).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return None


def keep(home: Path, stored: StoredSession) -> None:
    """Replaces the session."""
    _write(_file(home), asdict(stored))


def forget(home: Path) -> None:
    """Nobody is logged in any more."""
    _file(home).unlink(missing_ok=True)


async def fresh(home: Path, roots: Path) -> StoredSession:
    """Returns the session with an access token that lasts for a command.

    Raises the server's refusal to go on with it, and forgets it then.
    """
    stored = read(home)
    if stored is not None and stored.lasts():
        return stored
    async with locked(home):
        stored = read(home)
        if stored is None:
            raise Unauthenticated("CREDENTIALS_MISSING", "nobody is logged in any more")
        if stored.lasts():
            return stored
        try:
            renewed = await (_renew if stored.kind == "oidc" else _refresh)(stored, roots)
        except Unauthenticated:
            forget(home)
            raise
        keep(home, renewed)
    return renewed


@asynccontextmanager
async def locked(home: Path) -> AsyncIterator[None]:
    """Keeps other commands from changing who is logged in."""
    descriptor = os.open(home / "session.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def device_token(home: Path, email: str) -> str:
    """Returns what shows that this machine has logged in to an account before, or nothing."""
    return str(_devices(home).get(email.lower(), ""))


def keep_device_token(home: Path, email: str, token: str) -> None:
    """Keeps it beyond the session, for which it is meant."""
    if token:
        _write(home / "devices.json", {**_devices(home), email.lower(): token})


def _devices(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / "devices.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def _refresh(stored: StoredSession, roots: Path) -> StoredSession:
    async with connect(stored.address, Bearer(roots), retries=False) as channel:
        request = session_pb2.RefreshSessionRequest(refresh_token=stored.refresh_token)
        stub = session_pb2_grpc.SessionServiceStub(channel)
        try:
            answer = await stub.RefreshSession(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return StoredSession.of(stored.address, answer.session)


async def _renew(stored: StoredSession, roots: Path) -> StoredSession:
    # Only here, because an HTTP client takes longer to load than most commands to run.
    from aegis.cli.device import DeviceLogin

    if not stored.refresh_token:
        raise Unauthenticated("TOKEN_EXPIRED", "the provider gave a token for one session only")
    async with DeviceLogin(stored.issuer, stored.client_id) as device:
        given = await device.refresh(stored.refresh_token)
    return replace(
        stored,
        access_token=given.token,
        access_ends_at=datetime.fromtimestamp(given.ends_at, UTC).isoformat(),
        refresh_token=given.refresh_token,
    )


async def end_at_provider(stored: StoredSession) -> None:
    """Has the provider forget the refresh token, if it answers; ours is forgotten in any case."""
    from aegis.cli.device import DeviceLogin

    with contextlib.suppress(Unavailable):
        async with DeviceLogin(stored.issuer, stored.client_id) as device:
            await device.revoke(stored.refresh_token)


def _file(home: Path) -> Path:
    return home / "session.json"


def _write(file: Path, content: dict[str, str]) -> None:
    scratch = file.with_name(f".{file.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(content, opened)
    scratch.replace(file)


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat()
