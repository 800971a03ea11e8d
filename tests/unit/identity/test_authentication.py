"""Authentication: which proof counts when a call shows several, or none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.identity.test_tokens import KEY, write

from aegis.errors import AegisError, Unauthenticated
from aegis.serving.doors import Peer
from aegis.spiffe import Caller
from aegis_server.identity.authentication import Authentication
from aegis_server.identity.tokens import AccessTokens, TokenKeys

LOGIN = "/aegis.v1.SessionService/Login"
WHO = "/aegis.v1.IdentityService/WhoAmI"


class Everybody:
    """A directory that vouches for everybody but the subjects it is told."""

    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.asked: list[Caller] = []

    async def check(self, caller: Caller, *, issued_at: datetime | None = None) -> None:
        self.asked.append(caller)
        if caller.subject in self.revoked:
            raise Unauthenticated("CREDENTIAL_REVOKED", "revoked", credential="account")


async def by_certificate(method: str, peer: Peer) -> Caller:
    return Caller("service:console", "spiffe://aegis.local/service/console")


async def by_key(token: str, address: str) -> Caller:
    return Caller("service:robot", "", method="api-key", credential=token)


async def by_openid(token: str, address: str) -> Caller:
    return Caller("user:oidc-1", "", method="oidc")


@pytest.fixture
def tokens(tmp_path: Path) -> AccessTokens:
    write(tmp_path / "keys.json", KEY)
    return AccessTokens(
        TokenKeys(tmp_path / "keys.json"),
        issuer="aegis://test",
        audience="aegis",
        clock=lambda: datetime.now(UTC),
    )


def peer(authorization: str = "", *, certificate: bytes | None = None) -> Peer:
    shown = {} if certificate is None else {"x509_pem_cert": [certificate]}
    return Peer(lambda: shown, authorization, "192.0.2.7")


async def refusal(call: object) -> AegisError:
    with pytest.raises(AegisError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_each_proof_names_its_own_caller(tokens: AccessTokens):
    """A token wins over the certificate of the connection it came over."""
    authentication = Authentication(
        Everybody(),  # type: ignore[arg-type]
        certificates=by_certificate,
        access_tokens=tokens,
        api_keys=by_key,
        openid=by_openid,
    )
    session, _ = tokens.issue("user:u-a", "s-1")
    foreign = AccessTokens(
        tokens._keys, issuer="https://idp", audience="x", clock=lambda: datetime.now(UTC)
    )
    for authorization, subject, method in (
        ("", "service:console", "certificate"),
        (f"Bearer {session}", "user:u-a", "session"),
        (f"bearer {session}", "user:u-a", "session"),
        ("Bearer aegis_k1_secret", "service:robot", "api-key"),
        (f"Bearer {foreign.issue('x', 'y')[0]}", "user:oidc-1", "oidc"),
    ):
        caller = await authentication(WHO, peer(authorization, certificate=b"pem"))
        assert (caller.subject, caller.method) == (subject, method)
        assert caller.address == "192.0.2.7"
    found = await authentication(WHO, peer(f"Bearer {session}"))
    assert found.credential == "s-1"
    assert found.expires_at is not None


async def test_who_shows_nothing_may_only_log_in(tokens: AccessTokens):
    """Anonymous at the methods that need no identity, refused at all others."""
    authentication = Authentication(
        Everybody(),  # type: ignore[arg-type]
        certificates=by_certificate,
        access_tokens=tokens,
    )
    caller = await authentication(LOGIN, peer())
    assert (caller.subject, caller.method, caller.address) == (
        "anonymous:unknown",
        "anonymous",
        "192.0.2.7",
    )
    assert (await refusal(authentication(WHO, peer()))).reason == "CREDENTIALS_MISSING"


async def test_bad_token_is_not_passed_over(tokens: AccessTokens):
    """Neither for the certificate of the connection nor because a method is open."""
    session, _ = tokens.issue("user:u-a", "s-1")
    foreign = AccessTokens(
        tokens._keys, issuer="https://idp", audience="x", clock=lambda: datetime.now(UTC)
    )
    authentication = Authentication(
        Everybody(),  # type: ignore[arg-type]
        certificates=by_certificate,
        access_tokens=tokens,
    )
    for token, check in (
        ("aegis_k1_secret", "type"),
        (foreign.issue("x", "y")[0], "issuer"),
        (session[:-6] + "AAAAAA", "signature"),
        ("x", "form"),
    ):
        for method in (LOGIN, WHO):
            shown = peer(f"Bearer {token}", certificate=b"pem")
            error = await refusal(authentication(method, shown))
            assert (error.reason, error.metadata["check"]) == ("TOKEN_INVALID", check)
    error = await refusal(authentication(WHO, peer(session)))
    assert error.metadata["check"] == "scheme"


async def test_directory_has_the_last_word_on_every_proof(tokens: AccessTokens):
    """A disabled account is out by whatever it proves itself."""
    directory = Everybody()
    directory.revoked = {"user:u-a", "service:robot", "user:oidc-1", "service:console"}
    authentication = Authentication(
        directory,  # type: ignore[arg-type]
        certificates=by_certificate,
        access_tokens=tokens,
        api_keys=by_key,
        openid=by_openid,
    )
    foreign = AccessTokens(
        tokens._keys, issuer="https://idp", audience="x", clock=lambda: datetime.now(UTC)
    )
    for authorization in (
        "",
        f"Bearer {tokens.issue('user:u-a', 's-1')[0]}",
        "Bearer aegis_k1_secret",
        f"Bearer {foreign.issue('x', 'y')[0]}",
    ):
        error = await refusal(authentication(WHO, peer(authorization, certificate=b"pem")))
        assert error.reason == "CREDENTIAL_REVOKED"


async def test_without_keys_no_session_counts(tokens: AccessTokens):
    """A server that was given none knows no issuer but that of an identity provider."""
    authentication = Authentication(Everybody(), certificates=by_certificate)  # type: ignore[arg-type]
    session, _ = tokens.issue("user:u-a", "s-1")
    error = await refusal(authentication(WHO, peer(f"Bearer {session}")))
    assert error.metadata["check"] == "issuer"
