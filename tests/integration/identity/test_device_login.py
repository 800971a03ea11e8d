"""Logging in from a terminal, at a provider that answers in every way it may."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from tests.issuer import CLIENT, Issuer

from aegis.cli.device import DeviceLogin, Grant
from aegis.errors import AegisError

CODE = {
    "device_code": "d-1",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://idp.example/device",
    "expires_in": 60,
    "interval": 2,
}
PENDING = {"error": "authorization_pending"}


class Sleeper:
    """Sleeps at once, and remembers how long it would have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    served = Issuer()
    async with served.serving():
        served.describe(
            device_authorization_endpoint=f"{served.url}/device",
            token_endpoint=f"{served.url}/token",
            revocation_endpoint=f"{served.url}/revoke",
        )
        served.queue("/device", CODE)
        yield served


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


def login(issuer: Issuer, sleeper: Sleeper) -> DeviceLogin:
    return DeviceLogin(issuer.url, CLIENT, sleep=sleeper)


async def refusal(call: object) -> AegisError:
    with pytest.raises(AegisError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_terminal_asks_as_often_as_the_provider_wants(issuer: Issuer, sleeper: Sleeper):
    """Five seconds slower for each complaint, and twice as slow while nobody answers."""
    token = issuer.token()
    issuer.queue(
        "/token",
        PENDING,
        {"error": "slow_down"},
        None,
        PENDING,
        {"access_token": token, "expires_in": 300, "refresh_token": "r-1"},
    )
    async with login(issuer, sleeper) as device:
        grant = await device.begin(("openid", "profile"))
        given = await device.wait(grant)
    assert (grant.uri, grant.user_code, grant.uri_with_code) == (
        "https://idp.example/device",
        "ABCD-EFGH",
        "",
    )
    assert sleeper.slept == [2, 2, 7, 14, 14]
    assert (given.token, given.refresh_token) == (token, "r-1")
    assert given.ends_at == pytest.approx(time.time() + 300, abs=5)
    assert issuer.posted[0] == {"client_id": CLIENT, "scope": "openid profile"}
    assert issuer.posted[-1] == {
        "client_id": CLIENT,
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": "d-1",
    }
    for secret in (token, "r-1", "d-1"):
        assert secret not in f"{grant!r} {given!r}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "access_denied"}, "access_denied"),
        ({"error": "expired_token"}, "expired_token"),
        ({"error": "\x1b[31mred"}, "no reason given"),
        ({"error": ["x"]}, "no reason given"),
        ({}, "no token that is a JWT"),
        ({"access_token": "opaque", "id_token": 7}, "no token that is a JWT"),
    ],
)
async def test_login_that_fails_says_why(
    issuer: Issuer, sleeper: Sleeper, answer: dict[str, object], said: str
):
    """In words that are safe to show in a terminal."""
    issuer.queue("/token", answer)
    async with login(issuer, sleeper) as device:
        error = await refusal(device.wait(await device.begin(("openid",))))
    assert (error.reason, said in error.message) == ("LOGIN_FAILED", True)
    assert error.message.isprintable()


async def test_terminal_gives_up_when_the_code_ends(issuer: Issuer, sleeper: Sleeper):
    """Also when the provider never says so."""
    issuer.queue("/token", *[PENDING] * 40)
    async with login(issuer, sleeper) as device:
        error = await refusal(device.wait(await device.begin(("openid",))))
    assert (error.reason, sum(sleeper.slept)) == ("LOGIN_FAILED", 60)


async def test_client_that_the_provider_does_not_know_is_refused(issuer: Issuer, sleeper: Sleeper):
    """Before anybody is sent to a browser."""
    issuer.queue("/device", {"error": "invalid_client"})
    async with login(issuer, sleeper) as device:
        error = await refusal(device.begin(("openid",)))
    assert (error.reason, "invalid_client" in error.message) == ("LOGIN_FAILED", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"user_code": None},
        {"user_code": "A\nB"},
        {"verification_uri": "\x1b]0;title\x07"},
        {"device_code": 1},
    ],
)
async def test_answer_that_cannot_be_shown_is_no_answer(
    issuer: Issuer, sleeper: Sleeper, changes: dict[str, object]
):
    """A terminal obeys some characters."""
    issuer.queue("/device", {**CODE, **changes})
    async with login(issuer, sleeper) as device:
        error = await refusal(device.begin(("openid",)))
    assert error.reason == "IDENTITY_PROVIDER_UNAVAILABLE"


async def test_identity_token_is_taken_where_the_access_token_is_opaque(
    issuer: Issuer, sleeper: Sleeper
):
    """Its own end counts, not that of the opaque one."""
    token = issuer.token(exp=int(time.time()) + 1000)
    issuer.queue("/token", {"access_token": "opaque", "id_token": token, "expires_in": 5})
    async with login(issuer, sleeper) as device:
        given = await device.wait(await device.begin(("openid",)))
    assert (given.token, given.refresh_token) == (token, "")
    assert given.ends_at == pytest.approx(time.time() + 1000, abs=5)


async def test_refresh_keeps_the_refresh_token_unless_there_is_another(
    issuer: Issuer, sleeper: Sleeper
):
    """And is over when the provider says so; what it is told to forget is the token itself."""
    token = issuer.token()
    issuer.queue(
        "/token",
        {"access_token": token},
        {"access_token": token, "refresh_token": "r-2"},
        {"error": "invalid_grant"},
    )
    async with login(issuer, sleeper) as device:
        assert (await device.refresh("r-1")).refresh_token == "r-1"
        assert (await device.refresh("r-1")).refresh_token == "r-2"
        assert (await refusal(device.refresh("r-2"))).reason == "TOKEN_EXPIRED"
        await device.revoke("")
        assert "/revoke" not in issuer.asked
        issuer.put("/revoke", b"")
        await device.revoke("r-2")
    assert issuer.posted[-1] == {"client_id": CLIENT, "token": "r-2"}


async def test_provider_that_is_asked_too_often_has_ended_nothing(issuer: Issuer, sleeper: Sleeper):
    """The session goes on later: a refusal would have this machine forget it."""
    issuer.put("/token", b'{"error": "too_many_requests"}', status=429)
    async with login(issuer, sleeper) as device:
        refused = await refusal(device.refresh("r-1"))
        grant = await device.begin(("openid",))
        late = await refusal(device.wait(grant))
    assert refused.reason == "IDENTITY_PROVIDER_UNAVAILABLE"
    assert (late.reason, sleeper.slept[:3]) == ("LOGIN_FAILED", [2, 4, 8])


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"issuer": "https://elsewhere.example"}, ""),
        ({"device_authorization_endpoint": None}, ""),
        ({"device_authorization_endpoint": "ftp://127.0.0.1/x"}, ""),
        ({}, "http://idp.example"),
        ({}, "http://127.0.0.1:9"),
    ],
)
async def test_provider_that_cannot_be_trusted_is_not_asked(
    issuer: Issuer, sleeper: Sleeper, changes: dict[str, object], url: str
):
    """Another issuer, no endpoint, plain http over the network, or nobody there."""
    issuer.describe(**changes)
    issuer.url = url or issuer.url

    async def whole() -> Grant:
        async with login(issuer, sleeper) as device:
            return await device.begin(("openid",))

    assert (await refusal(whole())).reason == "IDENTITY_PROVIDER_UNAVAILABLE"
    assert "/device" not in issuer.asked
