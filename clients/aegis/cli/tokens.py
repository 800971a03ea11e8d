"""Who is logged in on this machine: HOME/session.json, readable by its owner alone.

A refresh token works once, and a second use would end the session. So whoever refreshes holds a
lock from before it reads the file until the new tokens are in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from aegis.channel import Bearer, connect
from aegis.errors import Unauthenticated, from_rpc_error
from aegis.v1 import session_pb2, session_pb2_grpc

_SECONDS = 30.0
# An access token that ends sooner than this is replaced before a command begins.
_LEFT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session and the address it was begun at; times are in ISO 8601."""

    address: str
    subject: str
    access_token: str = field(repr=False)
    access_ends_at: str
    refresh_token: str = field(repr=False)
    refresh_ends_at: str

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
            session = await _refresh(stored, roots)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if isinstance(refusal, Unauthenticated):
                forget(home)
            raise refusal from None
        renewed = StoredSession.of(stored.address, session)
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


async def _refresh(stored: StoredSession, roots: Path) -> session_pb2.Session:
    async with connect(stored.address, Bearer(roots), retries=False) as channel:
        request = session_pb2.RefreshSessionRequest(refresh_token=stored.refresh_token)
        stub = session_pb2_grpc.SessionServiceStub(channel)
        return (await stub.RefreshSession(request, timeout=_SECONDS)).session


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
