"""Service accounts and API keys: who may make them, what they open, and when they no longer do."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from tests.integration.identity.house import Calls, House, bearer, reason

from aegis.errors import AegisError, Unavailable
from aegis.v1 import identity_pb2, policy_pb2, session_pb2
from aegis.v1 import service_account_pb2 as pb
from aegis_server.identity.machines.keys import KEYS_MAX
from aegis_server.identity.machines.keytext import new_key

WHO = identity_pb2.WhoAmIRequest()
EVALUATE = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
DAY = 24 * 3600


async def made(
    call: Calls, name: str = "robot", *, roles: tuple[str, ...] = ("operator",)
) -> pb.ServiceAccount:
    request = pb.CreateServiceAccountRequest(name=name, description="A robot", roles=roles)
    return (await call(call.machines.CreateServiceAccount, request)).service_account


async def key_for(
    call: Calls, name: str = "robot", *, scopes: tuple[str, ...] = (), seconds: int = DAY
) -> pb.CreateApiKeyResponse:
    request = pb.CreateApiKeyRequest(service_account=name, scopes=scopes, lifetime_seconds=seconds)
    return await call(call.machines.CreateApiKey, request)


async def keys_of(call: Calls, name: str = "robot") -> list[pb.ApiKey]:
    request = pb.ListApiKeysRequest(service_account=name)
    return list((await call(call.machines.ListApiKeys, request)).api_keys)


async def who(house: House, secret: str) -> identity_pb2.WhoAmIResponse:
    async with house.calling(f"Bearer {secret}") as call:
        return await call(call.identity.WhoAmI, WHO)


async def refusal(house: House, secret: str) -> AegisError:
    with pytest.raises(AegisError) as caught:
        await who(house, secret)
    return caught.value


async def test_program_calls_with_its_key_as_its_account(house: House, admin: session_pb2.Session):
    """The key names the account, whose roles decide; the secret is shown once and kept nowhere."""
    async with house.calling(bearer(admin)) as call:
        account = await made(call)
        answer = await key_for(call)
        listed = await keys_of(call)
    assert (account.subject, account.roles) == ("service:robot", ["operator"])
    assert answer.secret.startswith(f"aegis_{answer.api_key.key_id}_")
    assert [key.key_id for key in listed] == [answer.api_key.key_id]
    me = await who(house, answer.secret)
    assert (me.subject, me.method) == ("service:robot", "api-key")
    assert "role:operator" in me.roles
    assert me.expire_time == answer.api_key.expire_time
    async with house.calling(f"Bearer {answer.secret}") as call:
        assert (await call(call.policy.Evaluate, EVALUATE)).effect == policy_pb2.EFFECT_DENY
        assert await reason(made(call, "other")) == "POLICY_DENIED"
        assert len((await call(call.machines.ListServiceAccounts, pages())).service_accounts) == 1
    async with house.database.transaction() as connection:
        cursor = await connection.execute("select api_key::text from aegis.api_key")
        stored = str(await cursor.fetchall())
    assert answer.secret.rpartition("_")[2][:43] not in stored
    records = await house.records()
    assert [(r.action, r.resource, r.outcome) for r in records[-2:]] == [
        ("create", "/identity/service-accounts/robot", "created"),
        ("create", f"/identity/service-accounts/robot/keys/{answer.api_key.key_id}", "created"),
    ]
    assert records[-1].actor == admin.subject
    assert answer.secret.rpartition("_")[2] not in str(records)


def pages(size: int = 0, token: str = "") -> pb.ListServiceAccountsRequest:
    return pb.ListServiceAccountsRequest(page_size=size, page_token=token)


async def test_accounts_are_listed_by_name_a_page_at_a_time(
    house: House, admin: session_pb2.Session
):
    """And a token that this list did not hand out is refused."""
    async with house.calling(bearer(admin)) as call:
        for name in ("c", "a-1", "b", "a"):
            await made(call, name, roles=())
        first = await call(call.machines.ListServiceAccounts, pages(3))
        second = await call(call.machines.ListServiceAccounts, pages(3, first.next_page_token))
        invented = call(call.machines.ListServiceAccounts, pages(3, "AAAA"))
        assert await reason(invented) == "PAGE_TOKEN_INVALID"
    found = [a.name for page in (first, second) for a in page.service_accounts]
    assert (found, second.next_page_token) == (["a", "a-1", "b", "c"], "")


async def test_name_that_is_taken_is_refused(house: House, admin: session_pb2.Session):
    """By an account, or by a rule: whoever had that name would have the rights of the rule."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        for name in ("robot", "coordinator"):
            assert await reason(made(call, name)) == "NAME_TAKEN", name
        for name in ("Robot", "a b", "", "x" * 64):
            assert await reason(made(call, name)) == "FIELD_INVALID", name
        described = pb.CreateServiceAccountRequest(name="a", description="two\nlines")
        assert await reason(call(call.machines.CreateServiceAccount, described)) == "FIELD_INVALID"


async def test_only_an_administrator_hands_out_the_role_admin(
    house: House, admin: session_pb2.Session
):
    """Not even who the rules let make accounts: a key of one would make them more than before."""
    async with house.calling(bearer(admin)) as call:
        chief = await made(call, "chief", roles=("admin",))
        keepers = await made(call, "keeper", roles=("keeper",))
        chiefs = await key_for(call, "chief")
        keeper = await key_for(call, "keeper")
        policy = await call(call.policy.GetPolicy, policy_pb2.GetPolicyRequest())
        rules = policy.csv + (
            "\np, role:keeper, *, /identity/service-accounts, *, , allow, keeper-keeps\n"
            "g2, role:deputy, role:admin\n"
        )
        await call(
            call.policy.ImportPolicy,
            policy_pb2.ImportPolicyRequest(csv=rules, reason="a test"),
        )
    async with house.calling(f"Bearer {keeper.secret}") as call:
        assert (await made(call, "helper", roles=("viewer",))).roles == ["viewer"]
        for role in ("admin", "deputy"):
            assert await reason(made(call, "more", roles=(role,))) == "POLICY_DENIED"
        promoting = pb.UpdateServiceAccountRequest(name="keeper", roles=["admin"], etag="1.1")
        assert await reason(call(call.machines.UpdateServiceAccount, promoting)) == "POLICY_DENIED"
        assert await reason(key_for(call, "chief")) == "POLICY_DENIED"
        rotating = pb.RotateApiKeyRequest(key_id=chiefs.api_key.key_id, lifetime_seconds=DAY)
        assert await reason(call(call.machines.RotateApiKey, rotating)) == "POLICY_DENIED"
        # It would count as soon as somebody enables the account.
        waiting = pb.UpdateServiceAccountRequest(
            name="keeper", roles=["admin"], disabled=True, etag=keepers.etag
        )
        assert await reason(call(call.machines.UpdateServiceAccount, waiting)) == "POLICY_DENIED"
        # In an emergency, less is always possible.
        stopping = pb.UpdateServiceAccountRequest(
            name="chief", roles=["admin"], disabled=True, etag=chief.etag
        )
        assert (await call(call.machines.UpdateServiceAccount, stopping)).service_account.disabled
    assert (await refusal(house, chiefs.secret)).reason == "CREDENTIAL_REVOKED"


async def test_scopes_bound_what_the_rules_allow(house: House, admin: session_pb2.Session):
    """A key is for what its scopes name, however much its account may; and none adds anything."""
    async with house.calling(bearer(admin)) as call:
        await made(call, roles=("admin",))
        key = await key_for(call, scopes=("read:/identity/*", "evaluate:/policy"))
        for scope in ("read", "READ:/x", "read:x", "re*d:/x", "*a:/x", "read:/**/x", "read:/a/"):
            assert await reason(key_for(call, scopes=(scope,))) == "FIELD_INVALID", scope
        await made(call, "poor", roles=())
        rich = await key_for(call, "poor", scopes=("*:/**",))
    async with house.calling(f"Bearer {key.secret}") as call:
        await call(call.machines.ListServiceAccounts, pages())
        await call(call.policy.Evaluate, EVALUATE)
        await call(call.identity.WhoAmI, WHO)
        with pytest.raises(AegisError) as caught:
            await made(call, "other")
    assert caught.value.reason == "SCOPE_INSUFFICIENT"
    assert caught.value.metadata == {
        "resource": "/identity/service-accounts",
        "action": "write",
    }
    async with house.calling(f"Bearer {rich.secret}") as call:
        assert await reason(call(call.policy.Evaluate, EVALUATE)) == "POLICY_DENIED"


async def test_key_with_scopes_makes_no_key_that_may_more(house: House, admin: session_pb2.Session):
    """Else a scope would hold nobody who may write accounts."""
    scopes = ("write:/identity/service-accounts", "evaluate:/policy")
    async with house.calling(bearer(admin)) as call:
        await made(call, roles=("admin",))
        unbound = await key_for(call)
        bound = await key_for(call, scopes=scopes)
    async with house.calling(f"Bearer {bound.secret}") as call:
        for wanted in ((), ("*:/**",), (*scopes, "read:/audit")):
            assert await reason(key_for(call, scopes=wanted)) == "SCOPE_INSUFFICIENT", wanted
        rotating = pb.RotateApiKeyRequest(key_id=unbound.api_key.key_id, lifetime_seconds=DAY)
        assert await reason(call(call.machines.RotateApiKey, rotating)) == "SCOPE_INSUFFICIENT"
        assert (await key_for(call, scopes=scopes[:1])).api_key.scopes == list(scopes[:1])


async def test_key_with_scopes_gives_no_account_the_role_admin(
    house: House, admin: session_pb2.Session
):
    """Keys that the account has already may be bound by nothing."""
    async with house.calling(bearer(admin)) as call:
        await made(call, roles=("admin",))
        other = await made(call, "other", roles=("viewer",))
        bound = await key_for(call, scopes=("write:/identity/*",))
        unbound = await key_for(call, scopes=("*:/**",))
    promoting = pb.UpdateServiceAccountRequest(name="other", roles=["admin"], etag=other.etag)
    async with house.calling(f"Bearer {bound.secret}") as call:
        asked = call(call.machines.UpdateServiceAccount, promoting)
        assert await reason(asked) == "SCOPE_INSUFFICIENT"
        promoting.roles[:] = ["operator"]
        answer = await call(call.machines.UpdateServiceAccount, promoting)
    promoting.roles[:], promoting.etag = ["admin"], answer.service_account.etag
    async with house.calling(f"Bearer {unbound.secret}") as call:
        await call(call.machines.UpdateServiceAccount, promoting)


async def test_disabled_account_is_out_until_it_is_enabled(
    house: House, admin: session_pb2.Session
):
    """Disabled and enabled again, its key counts as before; an outdated etag changes nothing."""
    async with house.calling(bearer(admin)) as call:
        account = await made(call)
        key = await key_for(call)

        async def update(etag: str, *, disabled: bool, roles: tuple[str, ...] = ("viewer",)):
            request = pb.UpdateServiceAccountRequest(
                name="robot", roles=roles, disabled=disabled, etag=etag
            )
            return (await call(call.machines.UpdateServiceAccount, request)).service_account

        stopped = await update(account.etag, disabled=True)
        error = await refusal(house, key.secret)
        assert (error.reason, error.metadata) == ("CREDENTIAL_REVOKED", {"credential": "account"})
        assert await reason(update(account.etag, disabled=False)) == "ETAG_MISMATCH"
        await update(stopped.etag, disabled=False)
    me = await who(house, key.secret)
    assert ("role:viewer" in me.roles, "role:operator" in me.roles) == (True, False)
    assert [r.action for r in await house.records()][-4:] == [
        "create",
        "change_roles",
        "disable",
        "enable",
    ]


async def test_key_of_a_deleted_account_counts_no_more(house: House, admin: session_pb2.Session):
    """Nor does an etag of it for the account that has its name next."""
    async with house.calling(bearer(admin)) as call:
        account = await made(call)
        key = await key_for(call)
        delete = pb.DeleteServiceAccountRequest(name="robot")
        await call(call.machines.DeleteServiceAccount, delete)
        assert await reason(call(call.machines.DeleteServiceAccount, delete)) == (
            "RESOURCE_NOT_FOUND"
        )
        again = await made(call)
        assert await keys_of(call) == []
    assert again.etag != account.etag
    assert (await refusal(house, key.secret)).reason == "TOKEN_INVALID"


async def test_what_there_is_not_is_not_found(house: House, admin: session_pb2.Session):
    """Whatever is asked of it, and however strange its name."""
    async with house.calling(bearer(admin)) as call:
        stubs = call.machines
        for name in ("nobody", "a\0b", "'"):
            update = pb.UpdateServiceAccountRequest(name=name, etag="1.1")
            for asked in (
                call(stubs.UpdateServiceAccount, update),
                call(stubs.DeleteServiceAccount, pb.DeleteServiceAccountRequest(name=name)),
                key_for(call, name),
                keys_of(call, name),
                call(stubs.RevokeApiKey, pb.RevokeApiKeyRequest(key_id=name)),
                call(stubs.RotateApiKey, pb.RotateApiKeyRequest(key_id=name, lifetime_seconds=1)),
            ):
                assert await reason(asked) == "RESOURCE_NOT_FOUND", name


async def test_revoked_key_ends_at_once_and_for_good(house: House, admin: session_pb2.Session):
    """Revoking twice is revoking once; there is no successor."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        key = await key_for(call)
        request = pb.RevokeApiKeyRequest(key_id=key.api_key.key_id)
        first = (await call(call.machines.RevokeApiKey, request)).api_key
        second = (await call(call.machines.RevokeApiKey, request)).api_key
        assert first.revoke_time == second.revoke_time
        rotating = pb.RotateApiKeyRequest(key_id=key.api_key.key_id, lifetime_seconds=DAY)
        assert await reason(call(call.machines.RotateApiKey, rotating)) == "STATE_CONFLICT"
    error = await refusal(house, key.secret)
    assert (error.reason, error.metadata) == ("CREDENTIAL_REVOKED", {"credential": "api_key"})
    assert [r.action for r in await house.records()].count("revoke") == 1


async def test_rotation_overlaps_and_then_only_the_successor_counts(
    house: House, admin: session_pb2.Session
):
    """Nothing has to stop meanwhile; a key never lasts longer for being rotated."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        old = await key_for(call, scopes=("read:/**",))
        rotating = pb.RotateApiKeyRequest(
            key_id=old.api_key.key_id, overlap_seconds=3600, lifetime_seconds=30 * DAY
        )
        new = await call(call.machines.RotateApiKey, rotating)
        await who(house, old.secret)
        await who(house, new.secret)
        assert new.api_key.scopes == ["read:/**"]
        ends_at = next(k for k in await keys_of(call) if k.key_id == old.api_key.key_id).expire_time
        assert ends_at.ToDatetime() < old.api_key.expire_time.ToDatetime()
        rotating.overlap_seconds = 7200
        await call(call.machines.RotateApiKey, rotating)
        found = next(k for k in await keys_of(call) if k.key_id == old.api_key.key_id)
        assert found.expire_time == ends_at
    house.clock.ahead = timedelta(hours=1, seconds=1)
    assert (await refusal(house, old.secret)).reason == "TOKEN_EXPIRED"
    await who(house, new.secret)


async def test_expired_key_is_told_from_one_that_never_was(
    house: House, admin: session_pb2.Session
):
    """Its owner learns what to do; it has no successor."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        key = await key_for(call, seconds=60)
        house.clock.ahead = timedelta(seconds=61)
        assert (await refusal(house, key.secret)).reason == "TOKEN_EXPIRED"
        rotating = pb.RotateApiKeyRequest(key_id=key.api_key.key_id, lifetime_seconds=DAY)
        assert await reason(call(call.machines.RotateApiKey, rotating)) == "STATE_CONFLICT"


async def test_wrong_secret_is_refused_like_an_unknown_key(
    house: House, admin: session_pb2.Session
):
    """Who guesses learns neither which ids there are nor that a typo is one."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        key = await key_for(call)
    stranger = new_key()
    guessed = type(stranger)(key.api_key.key_id, stranger.secret)
    errors = [await refusal(house, text.text()) for text in (stranger, guessed)]
    assert [(e.reason, e.message, e.metadata) for e in errors] == 2 * [
        ("TOKEN_INVALID", "no such API key counts here", {"check": "key"})
    ]
    assert (await refusal(house, key.secret[:-1] + "!")).metadata == {"check": "form"}
    swapped = key.secret[:25] + ("A" if key.secret[25] != "A" else "B") + key.secret[26:]
    assert (await refusal(house, swapped)).metadata == {"check": "checksum"}


async def test_account_has_so_many_keys_at_once(house: House, admin: session_pb2.Session):
    """Those that ended do not count; a successor does."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        first = await key_for(call, seconds=60)
        for _ in range(KEYS_MAX - 1):
            await key_for(call)
        assert await reason(key_for(call)) == "STATE_CONFLICT"
        rotating = pb.RotateApiKeyRequest(key_id=first.api_key.key_id, lifetime_seconds=DAY)
        await call(call.machines.RotateApiKey, rotating)
        rotating.key_id = (await keys_of(call))[0].key_id
        rotating.overlap_seconds = 60
        assert await reason(call(call.machines.RotateApiKey, rotating)) == "STATE_CONFLICT"


async def test_key_that_counts_is_listed_however_many_ended_since(
    house: House, admin: session_pb2.Session
):
    """Nobody hides a key behind others that are made and revoked."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        kept = (await key_for(call)).api_key.key_id
        async with house.database.transaction() as connection:
            await connection.execute(
                """
                insert into aegis.api_key (key_id, service_account, digest, scopes, created_at,
                                           ends_at, revoked_at)
                select 'aaaaaaaaaa' || chr(97 + n / 20) || chr(97 + n % 20), service_account,
                       digest, scopes, created_at, ends_at, created_at
                from aegis.api_key, generate_series(0, 249) n
                """
            )
        listed = [key.key_id for key in await keys_of(call)]
    assert (len(listed), listed[-1]) == (201, kept)


async def test_last_use_is_written_later_and_to_the_minute(
    house: House, admin: session_pb2.Session, caplog: pytest.LogCaptureFixture
):
    """A refused call is no use; what could not be written is kept for the next time."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        key, unused = await key_for(call), await key_for(call)
        await who(house, key.secret)
        await refusal(house, key.secret[:-1] + "!")
        transaction = house.database.transaction
        house.database.transaction = away  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING):
            await house.uses.write()
        house.database.transaction = transaction  # type: ignore[method-assign]
        assert "written later" in caplog.text
        before = (house.directory.snapshot.version, await keys_of(call))
        await house.uses.write()
        found = {k.key_id: k for k in await keys_of(call)}
        assert not any(k.HasField("last_use_time") for k in before[1])
        used_at = found[key.api_key.key_id].last_use_time.ToDatetime()
        assert (used_at.second, used_at.microsecond) == (0, 0)
        assert not found[unused.api_key.key_id].HasField("last_use_time")
        assert house.directory.snapshot.version == before[0]


def away() -> None:
    raise Unavailable("DATABASE_UNAVAILABLE", "away")


async def test_last_use_is_written_when_the_server_ends(house: House, admin: session_pb2.Session):
    """Nothing that was noted is lost by a restart."""
    async with house.calling(bearer(admin)) as call:
        await made(call)
        key = await key_for(call)
        part = asyncio.create_task(house.uses.run())
        await asyncio.sleep(0)
        await who(house, key.secret)
        part.cancel()
        await asyncio.wait([part])
        assert (await keys_of(call))[0].HasField("last_use_time")
