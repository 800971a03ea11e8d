"""Sessions of people: how they begin, go on and end, over a real port."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from tests.integration.identity.house import (
    CHEAP,
    EMAIL,
    PASSWORD,
    House,
    bearer,
    reason,
)

from aegis.errors import AegisError, ResourceExhausted, Unavailable
from aegis.serving.doors import Peer
from aegis.v1 import identity_pb2, identity_pb2_grpc, policy_pb2, session_pb2, user_pb2
from aegis_server.identity import store
from aegis_server.identity.buckets import LocalBuckets
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.sessions import Session
from aegis_server.identity.throttle import AttemptThrottle

LOGIN = session_pb2.LoginRequest(email=EMAIL, password=PASSWORD)
WHO = identity_pb2.WhoAmIRequest()


async def test_first_administrator_is_made_once_with_the_token_from_the_file(house: House):
    """The file is private, its token works once, and the file goes; no second one is made."""
    assert stat.S_IMODE(house.bootstrap_file.stat().st_mode) == 0o600
    request = session_pb2.BootstrapRequest(
        token=house.bootstrap_file.read_text().strip(), email=EMAIL, password=PASSWORD
    )
    async with house.calling() as call:
        session = (await call(call.sessions.Bootstrap, request)).session
        assert session.subject.startswith("user:u-")
        assert await reason(call(call.sessions.Bootstrap, request)) == "BOOTSTRAP_CLOSED"
    assert not house.bootstrap_file.exists()
    async with house.calling(bearer(session)) as call:
        me = await call(call.identity.WhoAmI, WHO)
    assert (me.subject, me.method, list(me.roles)) == (
        session.subject,
        "session",
        ["role:admin", "role:guarded"],
    )
    assert me.expire_time == session.access_expire_time
    assert [(r.actor, r.action, r.outcome) for r in await house.records()] == [
        (session.subject, "bootstrap", "created")
    ]


async def test_bootstrap_with_another_token_is_refused(house: House):
    """Guessing is counted, and weak passwords leave the token as it is."""
    token = house.bootstrap_file.read_text().strip()
    async with house.calling() as call:
        wrong = session_pb2.BootstrapRequest(token="no", email=EMAIL, password=PASSWORD)
        assert await reason(call(call.sessions.Bootstrap, wrong)) == "ONE_TIME_TOKEN_INVALID"
        weak = session_pb2.BootstrapRequest(token=token, email=EMAIL, password="password1234")
        assert await reason(call(call.sessions.Bootstrap, weak)) == "PASSWORD_WEAK"
        right = session_pb2.BootstrapRequest(token=token, email=EMAIL, password=PASSWORD)
        await call(call.sessions.Bootstrap, right)
    assert [call[0] for call in house.throttle.calls if call[1] == "bootstrap"][:2] == [
        "before",
        "failed",
    ]


async def test_strangers_cannot_keep_the_first_administrator_out(house: House):
    """However many networks guess: none has the token, which has a bucket of its own."""
    throttle = AttemptThrottle(LocalBuckets(), key=bytes(32), clock=house.clock)
    bootstrap = Bootstrap(
        house.register, house.passwords, house.sessions, throttle, file=house.bootstrap_file
    )

    async def attempt(token: str, address: str) -> Session:
        return await bootstrap.make_administrator(
            token, email=EMAIL, display_name="Ada", password=PASSWORD, caller_address=address
        )

    for n in range(70):
        await reason(attempt("a guess", f"198.51.100.{n}"))
    guesses = [await reason(attempt(f"guess {n}", "203.0.113.5")) for n in range(61)]
    assert guesses[-1] == "RATE_LIMITED"
    token = house.bootstrap_file.read_text().strip()
    assert (await attempt(token, "192.0.2.7")).access_token


async def test_two_bootstraps_at_once_make_one_administrator(house: House):
    """The token is spent in the transaction that makes the account."""
    token = house.bootstrap_file.read_text().strip()
    async with house.calling() as call:
        answers = await asyncio.gather(
            *(
                call(
                    call.sessions.Bootstrap,
                    session_pb2.BootstrapRequest(
                        token=token, email=f"{name}@example.org", password=PASSWORD
                    ),
                )
                for name in ("ada", "bob")
            ),
            return_exceptions=True,
        )
    refused = [answer for answer in answers if isinstance(answer, AegisError)]
    assert [refusal.reason for refusal in refused] == ["BOOTSTRAP_CLOSED"]


async def test_restart_keeps_the_token_until_somebody_is_administrator(
    house: House, admin: session_pb2.Session
):
    """A second server finds the first one's token; with an administrator the file goes."""
    await house.bootstrap.prepare()
    assert not house.bootstrap_file.exists()


async def test_second_server_does_not_replace_the_token(house: House):
    """Whoever read the file before it started can still use what they read."""
    before = house.bootstrap_file.read_text()
    await house.bootstrap.prepare()
    assert house.bootstrap_file.read_text() == before
    house.bootstrap_file.write_text("another one")
    await house.bootstrap.prepare()
    assert house.bootstrap_file.read_text() not in (before, "another one")


async def test_login_begins_a_session_that_may_do_what_its_roles_may(
    house: House, admin: session_pb2.Session
):
    """The token decides as its subject; the device gets a token of its own."""
    async with house.calling() as call:
        session = (await call(call.sessions.Login, LOGIN)).session
    assert session.device_token == "device-token"
    async with house.calling(bearer(session)) as call:
        request = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
        answer = await call(call.policy.Evaluate, request)
        assert answer.effect == policy_pb2.EFFECT_DENY
    record = (await house.records())[-1]
    assert (record.actor, record.action, record.outcome) == (admin.subject, "login", "accepted")


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (EMAIL, "another long password"),
        ("nobody@example.org", PASSWORD),
        ("\0", PASSWORD),
        ("", ""),
    ],
)
async def test_login_that_fails_does_not_say_why(
    house: House, admin: session_pb2.Session, email: str, password: str
):
    """A wrong password and an unknown address are refused in the same words, and both counted."""
    async with house.calling() as call:
        request = session_pb2.LoginRequest(email=email, password=password)
        with pytest.raises(AegisError) as refusal:
            await call(call.sessions.Login, request)
    assert refusal.value.reason == "LOGIN_FAILED"
    assert refusal.value.message == "no account has this address and password"
    assert [call[:2] for call in house.throttle.calls[-2:]] == [
        ("before", "login"),
        ("failed", "login"),
    ]
    assert house.throttle.calls[-1][3] == "127.0.0.1"


async def test_failed_login_is_recorded_without_the_address(
    house: House, admin: session_pb2.Session
):
    """Of a known account its pseudonym, of an unknown address a keyed hash."""
    async with house.calling() as call:
        for email in (EMAIL, "mallory@example.org"):
            wrong = session_pb2.LoginRequest(email=email, password="wrong")
            assert await reason(call(call.sessions.Login, wrong)) == "LOGIN_FAILED"
    known, unknown = (await house.records())[-2:]
    assert (known.subject_id, known.reason) == (
        admin.subject.removeprefix("user:"),
        "LOGIN_FAILED",
    )
    assert unknown.resource == "/identity/users"
    assert unknown.details["address_key"] == house.register.key_of_address("mallory@example.org")
    assert b"example.org" not in known.SerializeToString() + unknown.SerializeToString()


@pytest.mark.parametrize(
    "refusal",
    [
        ResourceExhausted("RATE_LIMITED", "slow down", retry_seconds=7.0, limit="login"),
        Unavailable("LIMITER_UNAVAILABLE", "cannot count"),
    ],
)
async def test_throttle_refuses_before_anything_is_verified(
    house: House, admin: session_pb2.Session, refusal: AegisError
):
    """Not even the right password passes a throttle that refuses, at any door that guesses."""
    house.throttle.refusal = refusal
    attempts = [
        ("Login", LOGIN),
        ("RequestPasswordReset", session_pb2.RequestPasswordResetRequest(email=EMAIL)),
        ("ResetPassword", session_pb2.ResetPasswordRequest(token="t", password=PASSWORD)),
        ("Bootstrap", session_pb2.BootstrapRequest(token="t", email=EMAIL, password=PASSWORD)),
    ]
    async with house.calling() as call:
        for method, request in attempts:
            answer = call(getattr(call.sessions, method), request)
            assert await reason(answer) == refusal.reason
    async with house.calling(bearer(admin)) as call:
        change = user_pb2.ChangePasswordRequest(old_password=PASSWORD, new_password="x")
        assert await reason(call(call.users.ChangePassword, change)) == refusal.reason


async def test_refresh_token_is_spent_for_a_new_pair(house: House, admin: session_pb2.Session):
    """The session goes on under the same subject; both tokens are new."""
    async with house.calling() as call:
        request = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
        session = (await call(call.sessions.RefreshSession, request)).session
    assert session.subject == admin.subject
    assert session.refresh_token != admin.refresh_token
    async with house.calling(bearer(session)) as call:
        await call(call.identity.WhoAmI, WHO)


async def test_refresh_token_used_twice_ends_its_session_and_no_other(
    house: House, admin: session_pb2.Session
):
    """Neither its successor nor its access token counts any more; that it happened is recorded."""
    old = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
    async with house.calling() as call:
        other = (await call(call.sessions.Login, LOGIN)).session
        session = (await call(call.sessions.RefreshSession, old)).session
        assert await reason(call(call.sessions.RefreshSession, old)) == "REFRESH_TOKEN_REUSED"
        new = session_pb2.RefreshSessionRequest(refresh_token=session.refresh_token)
        assert await reason(call(call.sessions.RefreshSession, new)) == "CREDENTIAL_REVOKED"
    for token in (admin, session):
        async with house.calling(bearer(token)) as call:
            assert await reason(call(call.identity.WhoAmI, WHO)) == "CREDENTIAL_REVOKED"
    async with house.calling(bearer(other)) as call:
        await call(call.identity.WhoAmI, WHO)
    record = (await house.records())[-1]
    assert (record.action, record.reason) == ("refresh", "REFRESH_TOKEN_REUSED")


async def test_of_two_refreshes_at_once_exactly_one_wins(house: House, admin: session_pb2.Session):
    """The loser is told that the token was used, and the session ends."""
    request = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
    async with house.calling() as call:
        answers = await asyncio.gather(
            *(call(call.sessions.RefreshSession, request) for _ in range(2)),
            return_exceptions=True,
        )
    refused = [answer for answer in answers if isinstance(answer, AegisError)]
    assert [refusal.reason for refusal in refused] == ["REFRESH_TOKEN_REUSED"]


async def test_refresh_with_anything_else_is_refused(house: House, admin: session_pb2.Session):
    """Unknown, or past its end after seven days."""
    async with house.calling() as call:
        for token in ("", "no", admin.access_token[:200]):
            unknown = session_pb2.RefreshSessionRequest(refresh_token=token)
            assert await reason(call(call.sessions.RefreshSession, unknown)) == "TOKEN_INVALID"
        house.clock.ahead = timedelta(days=7, seconds=1)
        late = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
        assert await reason(call(call.sessions.RefreshSession, late)) == "TOKEN_EXPIRED"


async def test_logout_counts_at_once_where_it_was_called(house: House, admin: session_pb2.Session):
    """Access and refresh token both; a second logout changes nothing."""
    request = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
    async with house.calling() as call:
        await call(call.sessions.Logout, request)
        await call(call.sessions.Logout, request)
        again = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
        assert await reason(call(call.sessions.RefreshSession, again)) == "CREDENTIAL_REVOKED"
        unknown = session_pb2.LogoutRequest(refresh_token="no")
        assert await reason(call(call.sessions.Logout, unknown)) == "TOKEN_INVALID"
    async with house.calling(bearer(admin)) as call:
        with pytest.raises(AegisError) as refusal:
            await call(call.identity.WhoAmI, WHO)
    assert refusal.value.metadata["credential"] == "session"
    assert [r.action for r in await house.records()].count("logout") == 1


async def test_logout_everywhere_ends_every_session(house: House, admin: session_pb2.Session):
    """Also those of other devices."""
    async with house.calling() as call:
        other = (await call(call.sessions.Login, LOGIN)).session
        everywhere = session_pb2.LogoutRequest(refresh_token=other.refresh_token, everywhere=True)
        await call(call.sessions.Logout, everywhere)
    async with house.calling(bearer(admin)) as call:
        assert await reason(call(call.identity.WhoAmI, WHO)) == "CREDENTIAL_REVOKED"


async def test_token_of_an_ended_session_ends_no_other(house: House, admin: session_pb2.Session):
    """Whoever copied it once would log its owner out again after each login, for a week."""
    async with house.calling() as call:
        first = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
        await call(call.sessions.Logout, first)
        owners = (await call(call.sessions.Login, LOGIN)).session
        first.everywhere = True
        assert await reason(call(call.sessions.Logout, first)) == "CREDENTIAL_REVOKED"
        spent = session_pb2.RefreshSessionRequest(refresh_token=owners.refresh_token)
        owners = (await call(call.sessions.RefreshSession, spent)).session
        house.clock.ahead = timedelta(days=6)
        again = session_pb2.RefreshSessionRequest(refresh_token=owners.refresh_token)
        owners = (await call(call.sessions.RefreshSession, again)).session
        house.clock.ahead = timedelta(days=7, seconds=1)
        first.refresh_token = spent.refresh_token
        assert await reason(call(call.sessions.Logout, first)) == "TOKEN_EXPIRED"
        last = session_pb2.RefreshSessionRequest(refresh_token=owners.refresh_token)
        assert (await call(call.sessions.RefreshSession, last)).session.access_token


async def test_logout_that_ends_nothing_is_no_change(house: House, admin: session_pb2.Session):
    """Anybody may call it: who has nothing to end does not make those wait who change something,
    nor every server read anew who is who.
    """
    async with house.calling() as call:
        request = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
        await call(call.sessions.Logout, request)
        before = await house.version()
        await call(call.sessions.Logout, request)
        unknown = session_pb2.LogoutRequest(refresh_token="a guess")
        async with house.database.transaction() as connection:
            await store.begin_change(connection)
            assert await reason(call(call.sessions.Logout, unknown)) == "TOKEN_INVALID"
            await connection.rollback()
    assert await house.version() == before


async def test_logout_ends_an_open_stream(house: House, admin: session_pb2.Session):
    """What a session holds open does not outlive it."""
    with house.doors.leashes.hold(
        await house.doors._authenticate("/x", _peer(bearer(admin)))
    ) as leash:
        leash.check()
        async with house.calling() as call:
            request = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
            await call(call.sessions.Logout, request)
        with pytest.raises(AegisError, match="session has ended"):
            leash.check()


def _peer(authorization: str) -> Peer:
    return Peer(dict, authorization, "127.0.0.1")


async def test_access_token_ends_after_fifteen_minutes(house: House, admin: session_pb2.Session):
    """With five seconds for clocks that differ."""
    async with house.calling(bearer(admin)) as call:
        house.clock.ahead = timedelta(minutes=15, seconds=3)
        await call(call.identity.WhoAmI, WHO)
        house.clock.ahead = timedelta(minutes=15, seconds=6)
        assert await reason(call(call.identity.WhoAmI, WHO)) == "TOKEN_EXPIRED"


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("", "CREDENTIALS_MISSING"),
        ("Bearer", "TOKEN_INVALID"),
        ("Bearer ", "TOKEN_INVALID"),
        ("Basic YWRtaW46YWRtaW4=", "TOKEN_INVALID"),
        ("Bearer garbage", "TOKEN_INVALID"),
        ("Bearer a.b.c", "TOKEN_INVALID"),
        ("Bearer aegis_k_no", "TOKEN_INVALID"),
        ("Bearer " + "x" * 5000, "TOKEN_INVALID"),
    ],
)
async def test_call_without_a_token_that_counts_is_refused(
    house: House, authorization: str, expected: str
):
    """Whatever is shown, the answer is a reason and never an incident."""
    async with house.calling(authorization) as call:
        assert await reason(call(call.identity.WhoAmI, WHO)) == expected


async def test_login_options_need_no_identity(house: House):
    """A login page can be shown to anybody."""
    async with house.calling() as call:
        answer = await call(call.sessions.GetLoginOptions, session_pb2.GetLoginOptionsRequest())
    assert answer.password
    assert answer.identity_provider.issuer == "https://idp.example.org"


async def test_nothing_happens_that_cannot_be_recorded(
    house: House, admin: session_pb2.Session, monkeypatch: pytest.MonkeyPatch
):
    """A login without its record is no login."""

    async def unavailable(*arguments: object) -> None:
        raise Unavailable("AUDIT_UNAVAILABLE", "the audit log cannot be written")

    monkeypatch.setattr(house.audit, "record_in", unavailable)
    async with house.calling() as call:
        assert await reason(call(call.sessions.Login, LOGIN)) == "AUDIT_UNAVAILABLE"
        request = session_pb2.LogoutRequest(refresh_token=admin.refresh_token)
        assert await reason(call(call.sessions.Logout, request)) == "AUDIT_UNAVAILABLE"
    async with house.calling(bearer(admin)) as call:
        await call(call.identity.WhoAmI, WHO)


async def test_old_sessions_are_forgotten(house: House, admin: session_pb2.Session):
    """A day after their end; what has not ended stays."""
    sweeping = asyncio.create_task(house.sessions.run())
    request = session_pb2.RefreshSessionRequest(refresh_token=admin.refresh_token)
    async with house.calling() as call:
        house.clock.ahead = timedelta(days=7, hours=23)
        assert await reason(call(call.sessions.RefreshSession, request)) == "TOKEN_EXPIRED"
        house.clock.ahead = timedelta(days=8, seconds=1)
        sweeping.cancel()
        sweeping = asyncio.create_task(house.sessions.run())
        async with asyncio.timeout(5):
            while await reason(call(call.sessions.RefreshSession, request)) != "TOKEN_INVALID":
                await asyncio.sleep(0.02)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


async def test_login_brings_an_old_hash_up_to_date(house: House, admin: session_pb2.Session):
    """Stronger parameters reach everybody who logs in, without anybody noticing."""
    house.sessions._passwords = Passwords(replace(CHEAP, time_cost=2))
    try:
        async with house.calling() as call:
            await call(call.sessions.Login, LOGIN)
            await call(call.sessions.Login, LOGIN)
    finally:
        house.sessions._passwords.close()
    async with house.database.transaction() as connection:
        cursor = await connection.execute("select password_hash from aegis.person")
        assert "t=2" in (await cursor.fetchone())[0]


async def test_two_authorizations_in_one_call_are_refused(house: House, admin: session_pb2.Session):
    """Which of them would count is a question nobody should have to ask."""
    async with grpc.aio.insecure_channel(house.address) as channel:
        shown = ("authorization", bearer(admin))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await identity_pb2_grpc.IdentityServiceStub(channel).WhoAmI(
                WHO, metadata=(shown, shown)
            )
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
