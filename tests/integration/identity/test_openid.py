"""Tokens of an OpenID provider: what counts, what does not, and a provider that comes and goes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey
from tests.integration.identity.house import House, reason
from tests.issuer import AUDIENCE, CLIENT, SUBJECT, Issuer

from aegis.errors import AegisError
from aegis.serving.auditlog import Entry
from aegis.spiffe import Caller
from aegis.v1 import identity_pb2, user_pb2
from aegis_server.identity.openid.provider import Provider
from aegis_server.identity.openid.verification import OpenIdVerification, subject_of

DAY_SECONDS = 24 * 3600


class Record:
    """An audit log that keeps entries in a list."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def record(self, entry: Entry) -> None:
        await asyncio.sleep(0)
        self.entries.append(entry)


class Noted:
    """A directory that only takes down what it is told."""

    def __init__(self) -> None:
        self.external: dict[str, tuple[str, ...]] = {}

    def note_external(self, subject: str, roles: tuple[str, ...], until: datetime) -> None:
        self.external[subject] = roles


class Desk:
    """A verification with everything around it; clocks are put forward by `ahead_seconds`."""

    def __init__(self, issuer: Issuer, **changes: object) -> None:
        self.issuer = issuer
        self.ahead_seconds = 0.0
        self.record = Record()
        self.noted = Noted()
        self.provider = Provider(
            issuer.settings(**changes),
            monotonic=lambda: time.monotonic() + self.ahead_seconds,
            wait_seconds=2,
        )
        self.verify = OpenIdVerification(
            self.provider,
            self.noted,  # type: ignore[arg-type]
            self.record,  # type: ignore[arg-type]
            clock=lambda: datetime.now(UTC) + timedelta(seconds=self.ahead_seconds),
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        part = asyncio.create_task(self.provider.run())
        try:
            yield self
        finally:
            part.cancel()
            await asyncio.gather(part, return_exceptions=True)

    async def refusal(self, token: str) -> tuple[str, str]:
        """The reason, and the check where there is one."""
        with pytest.raises(AegisError) as caught:
            await self.verify(token, "")
        return caught.value.reason, caught.value.metadata.get("check", "")


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    served = Issuer()
    async with served.serving():
        yield served


@pytest.fixture
async def desk(issuer: Issuer) -> AsyncIterator[Desk]:
    async with Desk(issuer).open() as opened:
        yield opened


async def test_person_is_known_by_a_pseudonym_and_has_the_mapped_roles(desk: Desk):
    """What the provider calls them and which groups nobody mapped stay with the provider."""
    token = desk.issuer.token(groups=["audit", "ops", "unmapped", 7])
    caller = await desk.verify(token, "192.0.2.7")
    assert caller.subject == subject_of(desk.issuer.url, SUBJECT)
    assert caller.subject.startswith("user:oidc-")
    assert len(caller.subject) == len("user:oidc-") + 16
    assert (caller.method, caller.scopes, SUBJECT in repr(caller)) == ("oidc", None, False)
    assert caller.expires_at is not None
    assert desk.noted.external == {caller.subject: ("role:auditor", "role:operator", "role:viewer")}


async def test_login_is_recorded_once_a_token(desk: Desk):
    """Not with every call, and once although many calls begin at the same moment."""
    first, second = desk.issuer.token(jti="1"), desk.issuer.token(jti="2", azp=CLIENT)
    await asyncio.gather(*(desk.verify(token, "") for token in 5 * [first, second]))
    assert [(e.action, e.outcome, e.details["client"]) for e in desk.record.entries] == [
        ("login", "accepted", ""),
        ("login", "accepted", CLIENT),
    ]
    assert SUBJECT not in str(desk.record.entries)
    assert desk.issuer.asked.count("/jwks") == 1


@pytest.mark.parametrize(
    ("claims", "check"),
    [
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"aud": "somebody-else"}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": {"aegis": 1}}, "audience"),
        ({"aud": [AUDIENCE, "other"]}, "audience"),
        ({"aud": [AUDIENCE, "other"], "azp": "other-client"}, "audience"),
        ({"sub": None}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": 7}, "claims"),
        ({"sub": "x" * 256}, "claims"),
        ({"sub": "\ud800"}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": "soon"}, "claims"),
        ({"exp": 1e300}, "claims"),
        ({"exp": 253402300799}, "claims"),  # the last second of the year 9999
        ({"iat": None}, "claims"),
        ({"iat": -62135596800}, "claims"),  # the first second of the year 1
        ({"nbf": []}, "claims"),
        ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "type"),
    ],
)
async def test_token_that_says_the_wrong_thing_is_refused(
    desk: Desk, claims: dict[str, object], check: str
):
    """However well it is signed."""
    assert await desk.refusal(desk.issuer.token(**claims)) == ("TOKEN_INVALID", check)
    assert desk.record.entries == []


@pytest.mark.parametrize("audience", [[AUDIENCE], {"aud": [AUDIENCE, "other"], "azp": CLIENT}])
async def test_token_for_several_counts_when_our_client_asked_for_it(desk: Desk, audience: object):
    """A list of one is as good as a text."""
    claims = audience if isinstance(audience, dict) else {"aud": audience}
    await desk.verify(desk.issuer.token(**claims), "")


@pytest.mark.parametrize(
    ("header", "check"),
    [
        ({"typ": "logout+jwt"}, "type"),
        ({"typ": 7}, "form"),
        ({"kid": None}, "key"),
        ({"kid": "k2"}, "key"),
        ({"crit": ["exp"], "exp": 1}, "header"),
    ],
)
async def test_header_that_is_not_understood_is_refused(
    desk: Desk, header: dict[str, object], check: str
):
    """Before anything is computed."""
    try:
        token = desk.issuer.token(header=header)
    except Exception:  # joserfc does not write some of these
        head = {"alg": "ES256", "kid": "k1", **header}
        token = f"{encoded(head)}.{encoded({'iss': desk.issuer.url})}.{'A' * 86}"
    reason, found = await desk.refusal(token)
    assert (reason, found in (check, "type")) == ("TOKEN_INVALID", True)


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_algorithm_none_is_refused(desk: Desk):
    """In every spelling; with a signature of something else, or none at all."""
    payload = desk.issuer.token().split(".")[1]
    for name in ("none", "None", "NONE", "nOnE", "", None, 7, ["ES256"]):
        for signature in ("", desk.issuer.token().split(".")[2]):
            head = encoded({"alg": name, "kid": "k1", "typ": "JWT"})
            reason, check = await desk.refusal(f"{head}.{payload}.{signature}")
            assert (reason, check in ("algorithm", "form")) == ("TOKEN_INVALID", True), name


async def test_public_key_is_no_secret_of_an_hmac(issuer: Issuer):
    """HS256 with the public key as its secret, as PEM and as DER; and it cannot be configured."""
    key = RSAKey.generate_key(2048, parameters={"kid": "k1"})
    issuer.publish(key)
    async with Desk(issuer).open() as desk:
        await desk.verify(issuer.token(key=key, algorithm="RS256"), "")
        payload = issuer.token(key=key, algorithm="RS256").split(".")[1]
        signed = f"{encoded({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{payload}"
        for secret in (key.as_pem(private=False), key.as_der(private=False)):
            # By hand, because our own library makes no secret of a public key.
            mac = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256))
            forged = f"{signed}.{mac.decode().rstrip('=')}"
            assert await desk.refusal(forged) == ("TOKEN_INVALID", "algorithm")
    for algorithms in (["HS256"], ["none"], ["RS256", "HS256"], []):
        with pytest.raises(ValueError, match="algorithms"):
            issuer.settings(algorithms=algorithms)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_algorithm_belongs_to_the_key(issuer: Issuer):
    """A key that is for PS256 verifies no RS256, nor a P-256 key anything of RSA."""
    rsa = RSAKey.generate_key(2048, parameters={"kid": "r", "alg": "PS256"})
    ed = OKPKey.generate_key("Ed25519", parameters={"kid": "e"})
    issuer.publish(issuer.key, rsa, ed)
    async with Desk(issuer, algorithms=["RS256", "PS256", "ES256", "Ed25519", "EdDSA"]).open() as d:
        await d.verify(issuer.token(), "")
        await d.verify(issuer.token(key=rsa, algorithm="PS256"), "")
        await d.verify(issuer.token(key=ed, algorithm="Ed25519"), "")
        await d.verify(issuer.token(key=ed, algorithm="EdDSA"), "")
        other = RSAKey.import_key({**rsa.as_dict(private=True), "alg": "RS256"})
        token = issuer.token(key=other, algorithm="RS256")
        assert await d.refusal(token) == ("TOKEN_INVALID", "algorithm")
        token = issuer.token(key=other, algorithm="RS256", header={"kid": "k1"})
        assert await d.refusal(token) == ("TOKEN_INVALID", "algorithm")


async def test_algorithm_that_is_not_allowed_here_is_refused(desk: Desk):
    """Whatever keys the provider has."""
    key = RSAKey.generate_key(2048, parameters={"kid": "r"})
    desk.issuer.publish(desk.issuer.key, key)
    token = desk.issuer.token(key=key, algorithm="PS256")
    assert await desk.refusal(token) == ("TOKEN_INVALID", "algorithm")


async def test_signature_of_another_key_is_refused(desk: Desk):
    """With the id of ours; and so is a token of which one character was changed."""
    stranger = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    assert await desk.refusal(desk.issuer.token(key=stranger)) == ("TOKEN_INVALID", "signature")
    head, payload, signature = desk.issuer.token().split(".")
    for changed in (
        f"{head}.{payload[:-4]}AAAA.{signature}",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}.{payload}.",
    ):
        reason, check = await desk.refusal(changed)
        assert (reason, check in ("signature", "form")) == ("TOKEN_INVALID", True)


async def test_token_counts_from_its_beginning_to_its_end(desk: Desk):
    """With thirty seconds for clocks that differ."""
    now = int(time.time())
    for claims in ({"exp": now - 25}, {"iat": now + 25}, {"nbf": now + 25}):
        await desk.verify(desk.issuer.token(**claims), "")
    assert (await desk.refusal(desk.issuer.token(exp=now - 35)))[0] == "TOKEN_EXPIRED"
    for claims in ({"iat": now + 40}, {"nbf": now + 40}):
        assert (await desk.refusal(desk.issuer.token(**claims)))[0] == "TOKEN_NOT_YET_VALID"


async def test_remembered_token_ends_as_well(desk: Desk):
    """What was verified once is not good for ever."""
    token = desk.issuer.token()
    await desk.verify(token, "")
    desk.ahead_seconds = 331
    assert (await desk.refusal(token))[0] == "TOKEN_EXPIRED"


async def test_oversized_token_is_refused_unread(desk: Desk):
    """Nobody has so many groups."""
    token = desk.issuer.token(groups=["g" * 1000] * 13)
    assert await desk.refusal(token) == ("TOKEN_INVALID", "size")


async def test_new_key_of_the_provider_is_picked_up(desk: Desk):
    """A token with it makes us look; one with a key that is gone counts no more."""
    old = desk.issuer.token()
    await desk.verify(old, "")
    fresh = ECKey.generate_key("P-256", parameters={"kid": "k2"})
    desk.issuer.publish(fresh)
    desk.ahead_seconds = 11
    caller = await desk.verify(desk.issuer.token(key=fresh), "")
    assert caller.subject == subject_of(desk.issuer.url, SUBJECT)
    assert await desk.refusal(old) == ("TOKEN_INVALID", "key")


async def test_same_id_for_another_key_is_another_key(desk: Desk):
    """What was remembered for the old one is verified anew."""
    token = desk.issuer.token()
    await desk.verify(token, "")
    desk.issuer.publish(
        ECKey.generate_key("P-256", parameters={"kid": "k1"}),
        ECKey.generate_key("P-256", parameters={"kid": "k3"}),
    )
    desk.ahead_seconds = 11
    assert await desk.refusal(desk.issuer.token(header={"kid": "k9"})) == ("TOKEN_INVALID", "key")
    assert await desk.refusal(token) == ("TOKEN_INVALID", "signature")


async def test_flood_of_unknown_keys_is_no_flood_of_fetches(desk: Desk):
    """A hundred names make us look once in ten seconds; those who wait all get an answer."""
    await desk.verify(desk.issuer.token(), "")
    desk.ahead_seconds = 11
    desk.issuer.pause_seconds = 0.05
    tokens = [desk.issuer.token(header={"kid": f"x{n}"}) for n in range(100)]
    answers = await asyncio.gather(*map(desk.refusal, tokens))
    assert set(answers) == {("TOKEN_INVALID", "key")}
    assert desk.provider.fetches == 2
    assert await desk.refusal(desk.issuer.token(header={"kid": "y"})) == ("TOKEN_INVALID", "key")
    assert desk.provider.fetches == 2


async def test_caller_who_leaves_breaks_off_no_fetch(desk: Desk):
    """Else somebody in a hurry could keep everybody from a new key."""
    await desk.verify(desk.issuer.token(), "")
    fresh = ECKey.generate_key("P-256", parameters={"kid": "k2"})
    desk.issuer.publish(fresh)
    desk.ahead_seconds = 11
    desk.issuer.pause_seconds = 0.1
    hurried = asyncio.create_task(desk.verify(desk.issuer.token(header={"kid": "x"}), ""))
    await asyncio.sleep(0.02)
    hurried.cancel()
    await desk.verify(desk.issuer.token(key=fresh), "")
    assert desk.provider.fetches == 2


async def test_last_good_keys_count_for_a_day_while_the_provider_is_away(desk: Desk):
    """A key that it might have meanwhile cannot be known; after the day nothing can."""
    await desk.verify(desk.issuer.token(), "")
    desk.issuer.documents.clear()
    desk.ahead_seconds = 11
    unknown = desk.issuer.token(header={"kid": "k2"})
    assert (await desk.refusal(unknown))[0] == "IDENTITY_PROVIDER_UNAVAILABLE"
    desk.ahead_seconds = DAY_SECONDS - 60
    token = desk.issuer.token(
        iat=int(time.time() + desk.ahead_seconds), exp=int(time.time() + 2 * DAY_SECONDS)
    )
    await desk.verify(token, "")
    desk.ahead_seconds = DAY_SECONDS + 60
    assert (await desk.refusal(token))[0] == "IDENTITY_PROVIDER_UNAVAILABLE"
    desk.issuer.describe()
    desk.issuer.publish(desk.issuer.key)
    desk.ahead_seconds += 11
    await desk.verify(token, "")


async def test_provider_that_is_away_from_the_start_says_when_to_try_again(issuer: Issuer):
    """Its tokens may be good, so they are not called invalid."""
    issuer.documents.clear()
    async with Desk(issuer).open() as desk:
        with pytest.raises(AegisError) as caught:
            await desk.verify(issuer.token(), "")
        assert caught.value.reason == "IDENTITY_PROVIDER_UNAVAILABLE"
        assert caught.value.retry_seconds == 10
        issuer.describe()
        issuer.publish(issuer.key)
        desk.ahead_seconds = 11
        await desk.verify(issuer.token(), "")


def public(issuer: Issuer) -> dict[str, object]:
    return {**issuer.key.as_dict(private=False), "kid": "k1"}


def elsewhere(issuer: Issuer) -> str:
    return f"location: {issuer.url}/elsewhere\r\n"


def jwks(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": keys}).encode()


DISCOVERY = "/.well-known/openid-configuration"
TRICKS: dict[str, Callable[[Issuer], object]] = {
    "another issuer": lambda i: i.describe(issuer=f"{i.url}/"),
    "no jwks_uri": lambda i: i.describe(jwks_uri=None),
    "jwks by ftp": lambda i: i.describe(jwks_uri="ftp://127.0.0.1/jwks"),
    "jwks with a password": lambda i: i.describe(jwks_uri="https://a:b@127.0.0.1/jwks"),
    "jwks of nowhere": lambda i: i.describe(jwks_uri="https://[::1"),
    "redirected discovery": lambda i: i.put(DISCOVERY, b"", status=302, more=elsewhere(i)),
    "redirected jwks": lambda i: i.put("/jwks", b"", status=307, more=elsewhere(i)),
    "oversized jwks": lambda i: i.put("/jwks", jwks(public(i)) + b" " * 300_000),
    "compressed jwks": lambda i: i.put("/jwks", jwks(public(i)), more="content-encoding: gzip\r\n"),
    "too many keys": lambda i: i.put("/jwks", jwks(*[public(i)] * 65)),
    "nothing but secrets": lambda i: i.put(
        "/jwks", jwks({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"})
    ),
    "private keys": lambda i: i.put("/jwks", jwks(i.key.as_dict(private=True, kid="k1"))),
    "keys to encrypt": lambda i: i.put("/jwks", jwks({**public(i), "use": "enc"})),
    "keys to sign": lambda i: i.put("/jwks", jwks({**public(i), "key_ops": ["sign"]})),
    "keys of another curve": lambda i: i.put("/jwks", jwks({**public(i), "crv": "P-384"})),
    "no JSON": lambda i: i.put("/jwks", b"<html>"),
    "no object": lambda i: i.put("/jwks", b"[]"),
    "deep JSON": lambda i: i.put("/jwks", b"[" * 100_000),
    "closed door": lambda i: setattr(i, "url", "http://127.0.0.1:9"),
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_provider_whose_keys_cannot_be_trusted_has_none(issuer: Issuer, trick: str):
    """Nothing is fetched from elsewhere, and nothing without bounds."""
    issuer.put("/elsewhere", jwks(public(issuer)))
    TRICKS[trick](issuer)
    async with Desk(issuer).open() as desk:
        reason, _ = await desk.refusal(issuer.token())
    assert reason == "IDENTITY_PROVIDER_UNAVAILABLE"
    assert "/elsewhere" not in issuer.asked


@pytest.mark.filterwarnings("ignore:Key size should be")
async def test_key_that_is_too_short_does_not_count(issuer: Issuer):
    """Nor does one that is so long that it would only cost time."""
    weak = RSAKey.generate_key(1024, parameters={"kid": "k1"})
    issuer.publish(weak, ECKey.generate_key("P-256", parameters={"kid": "k2"}))
    async with Desk(issuer).open() as desk:
        token = issuer.token(key=weak, algorithm="RS256")
        assert await desk.refusal(token) == ("TOKEN_INVALID", "key")


async def test_slow_provider_keeps_nobody_waiting_for_long(issuer: Issuer):
    """Who waits is told to come again before the fetch is given up."""
    issuer.pause_seconds = 1
    desk = Desk(issuer)
    desk.provider._wait_seconds = 0.05
    async with desk.open():
        reason, _ = await desk.refusal(issuer.token())
    assert reason == "IDENTITY_PROVIDER_UNAVAILABLE"


async def test_person_of_the_provider_calls_and_may_what_their_groups_may(
    issuer: Issuer, house: House
):
    """Through every door: the roles of the token decide, until it ends."""
    provider = Provider(issuer.settings())
    house.openid = OpenIdVerification(provider, house.directory, house.audit, clock=house.clock)
    fetching = asyncio.create_task(provider.run())
    async with house.calling(f"Bearer {issuer.token()}") as call:
        me = await call(call.identity.WhoAmI, identity_pb2.WhoAmIRequest())
        assert (me.method, "role:operator" in me.roles) == ("oidc", True)
        await call(call.users.ListUsers, user_pb2.ListUsersRequest())
        creating = user_pb2.CreateUserRequest(email="a@example.org")
        assert await reason(call(call.users.CreateUser, creating)) == "POLICY_DENIED"
        profile = call(call.users.GetProfile, user_pb2.GetProfileRequest())
        assert await reason(profile) == "RESOURCE_NOT_FOUND"
        house.clock.ahead = timedelta(seconds=331)
        late = call(call.identity.WhoAmI, identity_pb2.WhoAmIRequest())
        assert await reason(late) == "TOKEN_EXPIRED"
    async with house.calling(f"Bearer {issuer.token(groups=[], exp=9999999999)}") as call:
        denied = call(call.users.ListUsers, user_pb2.ListUsersRequest())
        assert await reason(denied) == "POLICY_DENIED"
    fetching.cancel()
    logins = [r for r in await house.records() if r.action == "login"]
    assert [(r.actor, r.outcome) for r in logins] == 2 * [(me.subject, "accepted")]
    assert logins[0].resource == f"/identity/users/{me.subject.removeprefix('user:')}"


async def test_roles_may_be_nested_in_the_claims(issuer: Issuer):
    """As some providers write them; what is not there gives nothing."""
    async with Desk(issuer, roles_claim=["realm_access", "roles"]).open() as desk:
        for claims, roles in (
            ({"realm_access": {"roles": ["audit"]}}, ("role:auditor",)),
            ({"realm_access": {"roles": "audit"}}, ("role:auditor",)),
            ({"realm_access": {"roles": {"audit": 1}}}, ()),
            ({"realm_access": "audit"}, ()),
            ({}, ()),
        ):
            caller: Caller = await desk.verify(issuer.token(**claims), "")
            assert desk.noted.external[caller.subject] == roles
