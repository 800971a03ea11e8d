"""The directory: what one server changes, every server knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import psycopg
import pytest
from tests.integration.identity.house import EMAIL, PASSWORD, Clock, House, bearer, reason

from aegis.errors import AegisError, Unavailable
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Peer
from aegis.spiffe import Caller
from aegis.v1 import session_pb2
from aegis_server.identity.directory import Directory
from aegis_server.identity.people.accounts import Wishes


@pytest.fixture
async def replica(database: Database) -> AsyncIterator[Directory]:
    """The directory of another server, as often refreshed as in production."""
    directory = Directory(database, clock=Clock())
    await directory.open()
    following = asyncio.create_task(directory.run())
    yield directory
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def session_of(session: session_pb2.Session, house: House) -> Caller:
    found = house.access_tokens.verify(session.access_token)
    return Caller(found.subject, "", method="session", credential=found.session_id)


async def seconds_until_refused(directory: Directory, caller: Caller) -> float:
    began = time.monotonic()
    while directory.refusal(caller) is None:
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("deed", ["logout", "disable"])
async def test_revocation_counts_on_every_server_within_two_seconds(
    house: House, admin: session_pb2.Session, replica: Directory, deed: str
):
    """At once where it was done, at the next look elsewhere."""
    async with house.calling() as call:
        request = session_pb2.LoginRequest(email=EMAIL, password=PASSWORD)
        session = (await call(call.sessions.Login, request)).session
    caller = session_of(session, house)
    await replica.check(caller, issued_at=house.clock())
    if deed == "logout":
        await house.sessions.logout(session.refresh_token, everywhere=False)
    else:
        async with house.database.transaction() as connection:
            # As if there were another administrator: this is about how news travel.
            await connection.execute("update aegis.person set disabled = true")
            await connection.execute("update aegis.identity_version set version = version + 1")
        await house.directory.refresh()
    assert house.directory.refusal(caller) is not None
    assert await seconds_until_refused(replica, caller) < 2


async def test_roles_count_on_every_server_within_two_seconds(
    house: House, admin: session_pb2.Session, replica: Directory
):
    """Gained and lost."""
    person = await house.accounts.create(
        Caller(admin.subject, ""), email="bob@example.org", display_name="", roles=["viewer"]
    )
    assert house.directory.held_roles(person.subject) == ("role:viewer",)
    await asyncio.sleep(1.2)
    assert replica.held_roles(person.subject) == ("role:viewer",)
    await house.accounts.update(Caller(admin.subject, ""), person.user_id, Wishes(disabled=True))
    assert house.directory.held_roles(person.subject) == ()


async def test_session_of_an_account_made_elsewhere_counts_at_once(
    house: House, replica: Directory
):
    """A token that is newer than what a server knows makes it look before it refuses."""
    replica._poll_seconds = 3600
    await asyncio.sleep(0)
    async with house.calling() as call:
        request = session_pb2.BootstrapRequest(
            token=house.bootstrap_file.read_text().strip(), email=EMAIL, password=PASSWORD
        )
        session = (await call(call.sessions.Bootstrap, request)).session
    caller = session_of(session, house)
    fresh = Directory(house.database, clock=house.clock)
    await fresh.open()
    await fresh.check(caller)
    await replica.check(caller, issued_at=house.clock())


async def test_unknown_subject_with_a_session_is_refused(house: House):
    """A deleted account is one that is not there."""
    caller = Caller("user:u-aaaaaaaaaa", "", method="session", credential="s-1")
    old = house.clock() - timedelta(minutes=10)
    with pytest.raises(AegisError, match="gone"):
        await house.directory.check(caller, issued_at=old)
    assert house.directory.refusal(Caller("user:admin", "spiffe://x/user/admin")) is None


async def test_server_that_cannot_look_vouches_for_nobody(
    house: House, admin: session_pb2.Session, database_name: str, postgres_url: str
):
    """After 30 seconds it answers UNAVAILABLE to everybody; what is older may have been revoked."""
    later = [0.0]
    directory = Directory(house.database, clock=house.clock, monotonic=lambda: later[0])
    with pytest.raises(Unavailable):
        directory.held_roles(admin.subject)
    await directory.open()
    later[0] = 29.0
    assert (directory.problem, directory.held_roles(admin.subject)) == ("", ("role:admin",))
    later[0] = 31.0
    assert directory.problem
    for ask in (
        lambda: directory.held_roles("user:admin"),
        lambda: directory.refusal(Caller("user:admin", "")),
    ):
        with pytest.raises(Unavailable) as refusal:
            ask()
        assert refusal.value.reason == "DATABASE_UNAVAILABLE"
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"alter database {database_name} allow_connections false")
        try:
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                (database_name,),
            )
            assert await reason(directory.refresh()) == "DATABASE_UNAVAILABLE"
        finally:
            owner.execute(f"alter database {database_name} allow_connections true")
    await directory.refresh()
    assert directory.problem == ""


class Counted:
    """The database, counting how often somebody looks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.looks = 0

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        self.looks += 1
        return self._database.transaction()


async def test_who_asks_at_the_same_time_shares_a_look(house: House, admin: session_pb2.Session):
    """Each call with a young token of an ended session asks anew: a flood of them would be a queue
    before everybody who changes something.
    """
    database = Counted(house.database)
    directory = Directory(database, clock=house.clock)  # type: ignore[arg-type]
    await directory.open()
    async with house.calling() as call:
        request = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
        await call(call.sessions.Logout, request)
    await asyncio.gather(*(directory.refresh() for _ in range(100)))
    assert database.looks <= 3
    assert directory.refusal(session_of(admin, house)) is not None


async def test_roles_of_others_tokens_last_as_long_as_those(house: House):
    """They are kept in memory, for so many and no longer than the token said."""
    until = house.clock() + timedelta(minutes=5)
    for number in range(10_001):
        house.directory.note_external(f"user:oidc-{number}", ("role:viewer",), until)
    assert house.directory.held_roles("user:oidc-0") == ()
    assert house.directory.held_roles("user:oidc-10000") == ("role:viewer",)
    house.clock.ahead = timedelta(minutes=6)
    assert house.directory.held_roles("user:oidc-10000") == ()


async def test_token_of_a_session_is_verified_in_microseconds(
    house: House, admin: session_pb2.Session
):
    """A repeated token costs no signature and no database."""
    peer = Peer(dict, bearer(admin), "127.0.0.1")
    authenticate = house.doors._authenticate
    await authenticate("/x", peer)
    began = time.perf_counter()
    for _ in range(200):
        await authenticate("/x", peer)
    assert (time.perf_counter() - began) / 200 < 0.001


async def test_standing_tells_of_everybody_known_now(house: House, admin: session_pb2.Session):
    """Accounts with their roles, None for a disabled one, and whom a token that lasts names."""
    ann = await house.accounts.create(
        Caller(admin.subject, ""), email="ann@example.org", display_name="", roles=["oncall"]
    )
    bob = await house.accounts.create(
        Caller(admin.subject, ""), email="bob@example.org", display_name="", roles=["oncall"]
    )
    await house.accounts.update(Caller(admin.subject, ""), bob.user_id, Wishes(disabled=True))
    now = house.clock()
    house.directory.note_external("user:new", ("role:oncall",), now + timedelta(minutes=1))
    house.directory.note_external("user:gone", ("role:oncall",), now - timedelta(seconds=1))
    assert house.directory.standing() == {
        admin.subject: ("role:admin",),
        ann.subject: ("role:oncall",),
        bob.subject: None,
        "user:new": ("role:oncall",),
    }
