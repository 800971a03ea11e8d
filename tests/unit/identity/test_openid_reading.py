"""What is read from others: settings, keys and tokens, and anything else that may come instead."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from aegis.errors import AegisError, Unauthenticated
from aegis.serving.auditlog import Entry
from aegis_server.identity.openid.keys import ProviderKey, read_keys
from aegis_server.identity.openid.settings import OpenIdSettings
from aegis_server.identity.openid.verification import OpenIdVerification, roles_of, subject_of
from aegis_server.identity.tokens import issuer_of

ISSUER = "https://login.example.org/realms/hospital"
FOUND = {"issuer": ISSUER, "audience": "aegis", "client_id": "aegis-cli"}
KEY = ECKey.generate_key("P-256", parameters={"kid": "k1"})
(OURS,) = read_keys({"keys": [KEY.as_dict(private=False)]})

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_settings_are_read_with_their_defaults(tmp_path: Path):
    """Only what cannot be guessed has to be said."""
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps(FOUND))
    settings = OpenIdSettings.load(file)
    assert (settings.scopes, settings.roles, settings.ca_file) == (("openid",), {}, None)
    assert settings.algorithms == ("RS256", "ES256", "EdDSA", "Ed25519")


def test_example_of_the_pages_is_one():
    """What people copy is what the server reads."""
    page = Path(__file__).parents[3] / "docs" / "operations.md"
    example = json.loads(page.read_text().partition("```json\n")[2].partition("```")[0])
    del example["ca_file"]
    assert OpenIdSettings.of(example).roles == {
        "platform-team": ("operator",),
        "compliance": ("auditor",),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": None}, "issuer"),
        ({"issuer": "http://login.example.org"}, "issuer is an https URL"),
        ({"issuer": "https://login.example.org?x=1"}, "issuer is an https URL"),
        ({"issuer": "https://a:b@login.example.org"}, "issuer is an https URL"),
        ({"issuer": "ftp://127.0.0.1"}, "issuer is an https URL"),
        ({"audience": ""}, "audience"),
        ({"client_id": ["x"]}, "client_id"),
        ({"scopes": "openid"}, "scopes is a list"),
        ({"roles": {"a": ["viewer"]}}, "roles needs roles_claim"),
        ({"roles": {"a": "viewer"}, "roles_claim": "g"}, "roles of 'a'"),
        ({"roles": {"a": ["role:viewer"]}, "roles_claim": "g"}, "roles of 'a'"),
        ({"roles": ["a"], "roles_claim": "g"}, "roles is an object"),
        ({"algorithms": ["HS256"]}, "algorithms are some of"),
        ({"ca_file": "/nowhere.pem"}, "ca_file: no file"),
        ({"role": {}}, "unknown: role"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], said: str):
    """A server with settings that make no sense does not start."""
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps({**FOUND, **changes}))
    with pytest.raises(ValueError, match=said) as refusal:
        OpenIdSettings.load(file)
    assert str(file) in str(refusal.value)


def test_settings_that_are_no_json_are_refused(tmp_path: Path):
    """And nothing of the file is repeated."""
    file = tmp_path / "oidc.json"
    file.write_text("secret words")
    with pytest.raises(ValueError, match="is not JSON") as refusal:
        OpenIdSettings.load(file)
    assert "secret" not in str(refusal.value)


@given(anything)
def test_settings_never_fail_otherwise(found: object):
    """Whatever the file says."""
    with pytest.raises(ValueError):
        OpenIdSettings.of(found)


def test_two_people_never_share_a_pseudonym():
    """Nor does one person at two issuers have the same."""
    names = {subject_of(issuer, sub) for issuer in (ISSUER, ISSUER + "/") for sub in ("1", "2")}
    assert len(names) == 4


@given(anything)
def test_roles_claim_gives_only_what_is_mapped(found: object):
    """Whatever a provider puts there."""
    settings = OpenIdSettings.of({**FOUND, "roles_claim": "g", "roles": {"ops": ["operator"]}})
    assert set(roles_of({"g": found}, settings)) <= {"role:operator"}
    assert roles_of({"g": ["x", "ops"]}, settings) == ("role:operator",)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("use", "key_ops", "alg", "n", "e", "x5c"), anything),
            "kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | anything,
            "crv": st.sampled_from(["P-256", "Ed25519"]) | anything,
            "kid": st.just("k1") | anything,
            "x": st.just(KEY.as_dict(private=False)["x"]) | anything,
            "y": st.just(KEY.as_dict(private=False)["y"]) | anything,
        },
    )
)
def test_any_jwk_is_usable_or_passed_over(entry: dict[str, object]):
    """Never an error of another kind: the task that fetches would end, and the server with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read_keys({"keys": [entry, KEY.as_dict(private=False)]})
    assert OURS.thumbprint in {key.thumbprint for key in found}


@given(anything)
def test_what_is_no_jwks_is_refused(document: object):
    """As a ValueError, which the fetch expects."""
    with pytest.raises(ValueError):
        read_keys(document)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_any_text_is_a_token_or_refused(text: str):
    """Before anybody is asked to verify it."""
    with pytest.raises(Unauthenticated) as refusal:
        issuer_of(text)
    assert refusal.value.reason == "TOKEN_INVALID"


class OneKey:
    """A provider that has one key, and is asked nothing."""

    settings = OpenIdSettings.of(FOUND)

    async def key(self, key_id: str, algorithm: str) -> ProviderKey:
        return OURS

    def still_has(self, key: ProviderKey) -> bool:
        return True


class Silent:
    """A directory and an audit log that keep nothing."""

    def note_external(self, subject: str, roles: tuple[str, ...], until: datetime) -> None:
        pass

    async def record(self, entry: Entry) -> None:
        pass


OUTCOMES = ("user:oidc-", "TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID")


async def outcome(verify: OpenIdVerification, token: str) -> str:
    try:
        return (await verify(token, "")).subject[: len("user:oidc-")]
    except AegisError as error:
        return error.reason


@given(
    claims=st.dictionaries(
        st.sampled_from(["iss", "aud", "azp", "sub", "exp", "iat", "nbf", "events"]) | st.text(),
        anything,
        max_size=5,
    ),
    header=st.dictionaries(
        st.sampled_from(["typ", "cty", "x5t"]) | st.text(), anything, max_size=2
    ),
)
def test_any_signed_token_is_verified_or_refused(claims: dict[str, Any], header: dict[str, Any]):
    """A provider may sign what it likes: never an error that is not ours."""
    verify = OpenIdVerification(
        OneKey(),  # type: ignore[arg-type]
        Silent(),  # type: ignore[arg-type]
        Silent(),  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
    )
    now = int(time.time())
    good = {"iss": ISSUER, "aud": "aegis", "sub": "1", "iat": now, "exp": now + 60}
    head = {**header, "alg": "ES256", "kid": "k1"}
    try:
        token = jws.serialize_compact(
            head,
            json.dumps({**good, **claims}),
            KEY,
            registry=JWSRegistry(algorithms=["ES256"], strict_check_header=False),
        )
    except Exception:  # it does not write every header
        return
    assert asyncio.run(outcome(verify, token)) in OUTCOMES
