"""Access tokens: what counts, and everything that does not."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey

from aegis.errors import Unauthenticated
from aegis_server.identity.tokens import AccessTokens, TokenKeys, issuer_of

NOW = datetime(2026, 11, 24, 12, 0, 0, 500_000, UTC)
KEY = ECKey.generate_key("P-256")
OTHER = ECKey.generate_key("P-256")
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.thumbprint()}
CLAIMS = {
    "iss": "aegis://test",
    "aud": "aegis",
    "sub": "user:u-a",
    "sid": "s-1",
    "iat": int(NOW.timestamp()),
    "nbf": int(NOW.timestamp()),
    "exp": int(NOW.timestamp()) + 900,
}


def write(file: Path, *keys: ECKey) -> None:
    listed = [{**key.as_dict(private=True), "kid": key.thumbprint()} for key in keys]
    file.write_text(json.dumps({"keys": listed}))
    file.chmod(0o600)


class Desk:
    """Tokens of a file of keys, at a time tests set."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.now = NOW
        self.ticks = 0.0
        write(file, KEY)
        self.keys = TokenKeys(file, monotonic=lambda: self.ticks)
        self.tokens = AccessTokens(
            self.keys, issuer="aegis://test", audience="aegis", clock=lambda: self.now
        )

    def refusal(self, token: str) -> tuple[str, str]:
        with pytest.raises(Unauthenticated) as refusal:
            self.tokens.verify(token)
        return refusal.value.reason, refusal.value.metadata.get("check", "")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "keys.json")


def signed(header: dict[str, object] = HEADER, key: object = KEY, **claims: object) -> str:
    registry = jws.JWSRegistry(algorithms=["ES256", "HS256"], strict_check_header=False)
    plain = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(header, plain, key, registry=registry, default_type=None)  # type: ignore[arg-type]


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_token_says_whose_it_is_for_fifteen_minutes(desk: Desk):
    """The form is that of RFC 9068, so that others can verify it, too."""
    token, ends_at = desk.tokens.issue("user:u-a", "s-1")
    found = desk.tokens.verify(token)
    assert (found.subject, found.session_id) == ("user:u-a", "s-1")
    assert ends_at == found.ends_at == NOW.replace(microsecond=0) + timedelta(minutes=15)
    decoded = jwt.decode(token, KEY, algorithms=["ES256"])
    assert decoded.header == HEADER
    assert set(decoded.claims) == {*CLAIMS, "client_id", "jti"}
    assert issuer_of(token) == "aegis://test"


def test_repeated_token_is_known_and_ends_all_the_same(desk: Desk):
    """What was verified is remembered, not how long it lasts."""
    token, _ = desk.tokens.issue("user:u-a", "s-1")
    assert not desk.tokens.knows(token)
    assert desk.tokens.verify(token) is desk.tokens.verify(token)
    assert desk.tokens.knows(token)
    desk.now = NOW + timedelta(minutes=15, seconds=4)
    desk.tokens.verify(token)
    desk.now = NOW + timedelta(minutes=15, seconds=5)
    assert desk.refusal(token) == ("TOKEN_EXPIRED", "")


def test_token_from_the_future_waits_for_its_time(desk: Desk):
    """With five seconds for clocks that differ."""
    desk.tokens.verify(signed(nbf=int(NOW.timestamp()) + 5))
    early = signed(nbf=int(NOW.timestamp()) + 7)
    assert desk.refusal(early) == ("TOKEN_NOT_YET_VALID", "")


def unsigned() -> str:
    return f"{part({**HEADER, 'alg': 'none'})}.{part(CLAIMS)}."


def hmac_with_the_public_key() -> str:
    secret = KEY.as_pem(private=False)
    text = f"{part({**HEADER, 'alg': 'HS256'})}.{part(CLAIMS)}"
    digest = hmac.digest(secret, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


@pytest.mark.parametrize(
    ("token", "check"),
    [
        (unsigned(), "algorithm"),
        (
            unsigned().replace(part({**HEADER, "alg": "none"}), part({**HEADER, "alg": "None"})),
            "algorithm",
        ),
        (hmac_with_the_public_key(), "algorithm"),
        (signed({**HEADER, "typ": "JWT"}), "type"),
        (signed({"alg": "ES256", "kid": KEY.thumbprint()}), "type"),
        (signed({**HEADER, "kid": "another"}), "key"),
        (signed({"alg": "ES256", "typ": "at+jwt"}), "key"),
        (signed({**HEADER, "jku": "https://evil.example.org"}), "header"),
        (signed(key=OTHER), "signature"),
        (signed()[:-4] + "AAAA", "signature"),
        (signed() + "=" * 5000, "size"),
        (signed(iss="aegis://other"), "issuer"),
        (signed(iss=None), "issuer"),
        (signed(aud="other"), "audience"),
        (signed(aud=["aegis", "other"]), "audience"),
        (signed(sub=None), "claims"),
        (signed(sid=7), "claims"),
        (signed(exp=None), "claims"),
        (signed(exp="soon"), "claims"),
        (signed(exp=True), "claims"),
        (signed(exp=1e300), "claims"),
        (signed(exp=253402300799), "claims"),  # the last second of the year 9999
        (signed(nbf=None), "claims"),
        ("a.b", "form"),
        ("....", "form"),
        ("é.ß.ü", "form"),
        (f"{part(['alg'])}.{part(CLAIMS)}.AA", "form"),
        (f"{part('alg')}.{part(CLAIMS)}.AA", "form"),
        (f"{part({**HEADER, 'kid': {'a': 1}})}.{part(CLAIMS)}.AA", "key"),
    ],
)
def test_token_that_is_not_ours_is_refused_by_the_check_it_fails(
    desk: Desk, token: str, check: str
):
    """None of them is ever looked into further than that."""
    assert desk.refusal(token) == ("TOKEN_INVALID", check)


def test_keys_change_without_a_restart(desk: Desk):
    """The first signs, all verify; what a removed key signed counts no more, though remembered."""
    old, _ = desk.tokens.issue("user:u-a", "s-1")
    desk.tokens.verify(old)
    write(desk.file, OTHER, KEY)
    desk.ticks += 1.0
    new, _ = desk.tokens.issue("user:u-a", "s-1")
    assert jws.extract_compact(new.encode()).headers()["kid"] == OTHER.thumbprint()
    desk.tokens.verify(old)
    write(desk.file, OTHER)
    desk.ticks += 1.0
    desk.tokens.verify(new)
    assert desk.refusal(old) == ("TOKEN_INVALID", "key")


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "EC"}]}', "[1]"])
def test_file_that_cannot_be_used_leaves_the_last_good_keys(desk: Desk, content: str):
    """Half a file must not log everybody out."""
    token, _ = desk.tokens.issue("user:u-a", "s-1")
    desk.file.write_text(content)
    desk.ticks += 1.0
    desk.tokens.verify(token)
    with pytest.raises(ValueError, match="not a JWKS"):
        TokenKeys(desk.file)


def test_keys_others_may_read_or_that_are_public_are_refused(desk: Desk):
    """At the start, by the name of the file and without a word of what is in it."""
    desk.file.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        TokenKeys(desk.file)
    desk.file.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    desk.file.chmod(0o600)
    with pytest.raises(ValueError, match="private EC P-256"):
        TokenKeys(desk.file)
    write(desk.file, ECKey.generate_key("P-384"))
    with pytest.raises(ValueError, match="private EC P-256"):
        TokenKeys(desk.file)
    write(desk.file, KEY, KEY)
    with pytest.raises(ValueError, match="same kid"):
        TokenKeys(desk.file)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["ES256", "none", "HS256", "b64"]) | _JSON,
        "typ": st.just("at+jwt") | _JSON,
        "kid": st.just(KEY.thumbprint()) | _JSON,
        "b64": _JSON,
        "crit": _JSON,
    },
)
_TOKENS = (
    st.text()
    | st.from_regex(r"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*", fullmatch=True)
    | st.builds(lambda h, c: f"{part(h)}.{part(c)}.AAAA", _HEADERS | _JSON, _JSON)
    | st.builds(
        lambda claims: signed(**claims),
        st.fixed_dictionaries(
            {}, optional={name: _JSON.filter(lambda v: v == v) for name in CLAIMS}
        ),
    )
)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(token=_TOKENS)
def test_whatever_is_shown_is_verified_or_refused(desk: Desk, token: str):
    """No text is an incident."""
    with contextlib.suppress(Unauthenticated):
        issuer_of(token)
        desk.tokens.verify(token)
