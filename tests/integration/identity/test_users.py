"""Accounts of people: who may change what, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.integration.identity.house import EMAIL, PASSWORD, Calls, House, bearer, reason

from aegis.errors import AegisError
from aegis.serving.doors import Peer
from aegis.spiffe import Caller
from aegis.v1 import identity_pb2, policy_pb2, service_account_pb2, session_pb2, user_pb2
from aegis_server.identity.people.accounts import Wishes

BOB = user_pb2.CreateUserRequest(
    email="Bob@example.org", display_name="Bob", roles=["viewer", "operator"]
)
BOBS = "nine green herons"
WHO = identity_pb2.WhoAmIRequest()
# By certificate, and no account at all.
ADMIN = Caller("user:admin", "")


async def created(house: House, admin: session_pb2.Session) -> user_pb2.User:
    async with house.calling(bearer(admin)) as call:
        return (await call(call.users.CreateUser, BOB)).user


async def joined(house: House, admin: session_pb2.Session) -> session_pb2.Session:
    """Bob's session, after he took his invitation."""
    await created(house, admin)
    token = await house.token_from_mail()
    async with house.calling() as call:
        request = session_pb2.ResetPasswordRequest(token=token, password=BOBS)
        await call(call.sessions.ResetPassword, request)
        login = session_pb2.LoginRequest(email="bob@EXAMPLE.org", password=BOBS)
        return (await call(call.sessions.Login, login)).session


def update(user_id: str, *paths: str, **fields: object) -> user_pb2.UpdateUserRequest:
    mask = FieldMask(paths=paths or [name for name in fields if name != "etag"])
    return user_pb2.UpdateUserRequest(user_id=user_id, update_mask=mask, **fields)


async def test_account_is_invited_by_mail_and_used_under_its_pseudonym(
    house: House, admin: session_pb2.Session
):
    """INVITED until the token from the mail has set a password, which it does once."""
    user = await created(house, admin)
    assert (user.state, user.email) == (user_pb2.User.STATE_INVITED, "Bob@example.org")
    assert user.subject == f"user:{user.user_id}"
    token = await house.token_from_mail()
    assert house.letterbox.mails[-1].to == "Bob@example.org"
    async with house.calling() as call:
        early = session_pb2.LoginRequest(email=user.email, password="")
        assert await reason(call(call.sessions.Login, early)) == "LOGIN_FAILED"
        weak = session_pb2.ResetPasswordRequest(token=token, password="bob")
        assert await reason(call(call.sessions.ResetPassword, weak)) == "PASSWORD_WEAK"
        request = session_pb2.ResetPasswordRequest(token=token, password=BOBS)
        await call(call.sessions.ResetPassword, request)
        assert await reason(call(call.sessions.ResetPassword, request)) == "ONE_TIME_TOKEN_INVALID"
        login = session_pb2.LoginRequest(email="bob@EXAMPLE.org ", password=BOBS)
        session = (await call(call.sessions.Login, login)).session
    async with house.calling(bearer(session)) as call:
        profile = (await call(call.users.GetProfile, user_pb2.GetProfileRequest())).user
        me = await call(call.identity.WhoAmI, WHO)
    assert profile.state == user_pb2.User.STATE_ACTIVE
    assert profile.HasField("last_login_time")
    assert "role:operator" in me.roles
    assert [r.action for r in await house.records()] == [
        "bootstrap",
        "create",
        "login",
        "reset_password",
        "login",
    ]


async def test_invitation_ends_after_seven_days_and_an_admin_sends_another(
    house: House, admin: session_pb2.Session
):
    """A new address gets a new invitation, and the one to the old address is void."""
    user = await created(house, admin)
    old = await house.token_from_mail()
    async with house.calling(bearer(admin)) as call:
        await call(call.users.UpdateUser, update(user.user_id, email="bob2@example.org"))
    new = await house.token_from_mail()
    assert house.letterbox.mails[-1].to == "bob2@example.org"
    async with house.calling() as call:
        for token, late in ((old, timedelta()), (new, timedelta(days=7, seconds=1))):
            house.clock.ahead = late
            request = session_pb2.ResetPasswordRequest(token=token, password=BOBS)
            refused = await reason(call(call.sessions.ResetPassword, request))
            assert refused == "ONE_TIME_TOKEN_INVALID"


async def test_address_belongs_to_one_account(house: House, admin: session_pb2.Session):
    """Neither a new account nor a changed one takes another's, whatever its spelling."""
    user = await created(house, admin)
    async with house.calling(bearer(admin)) as call:
        again = user_pb2.CreateUserRequest(email="bob@example.ORG")
        assert await reason(call(call.users.CreateUser, again)) == "NAME_TAKEN"
        taken = update(user.user_id, email=EMAIL.upper())
        assert await reason(call(call.users.UpdateUser, taken)) == "NAME_TAKEN"


async def test_address_that_a_mail_cannot_be_sent_to_makes_no_account(
    house: House, admin: session_pb2.Session
):
    """What a header would read as another address is none."""
    async with house.calling(bearer(admin)) as call:
        request = user_pb2.CreateUserRequest(email="=?utf-8?q?eve=40evil.example=2C?=@example.org")
        assert await reason(call(call.users.CreateUser, request)) == "FIELD_INVALID"


async def test_update_changes_what_the_mask_names_and_records_roles(
    house: House, admin: session_pb2.Session
):
    """Roles are recorded before and after, names and addresses only as changed."""
    user = await created(house, admin)
    async with house.calling(bearer(admin)) as call:
        request = update(
            user.user_id,
            "roles",
            "display_name",
            roles=["auditor"],
            display_name="B",
            disabled=True,
        )
        changed = (await call(call.users.UpdateUser, request)).user
    assert (list(changed.roles), changed.display_name) == (["auditor"], "B")
    assert changed.state == user_pb2.User.STATE_INVITED
    roles, names = (await house.records())[-2:]
    assert dict(roles.details) == {"roles_before": "operator viewer", "roles_after": "auditor"}
    assert dict(names.details) == {"fields": "display_name"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (update("u-aaaaaaaaaa", roles=["viewer"]), "RESOURCE_NOT_FOUND"),
        (update("\0", roles=["viewer"]), "RESOURCE_NOT_FOUND"),
        (update("u-aaaaaaaaaa", "password"), "FIELD_INVALID"),
        (user_pb2.UpdateUserRequest(user_id="u-a", update_mask=FieldMask()), "FIELD_INVALID"),
        (update("u-aaaaaaaaaa", email="not an address"), "FIELD_INVALID"),
        (update("u-aaaaaaaaaa", email="=?x?q??=@example.org"), "FIELD_INVALID"),
        (update("u-aaaaaaaaaa", display_name="a\nb"), "FIELD_INVALID"),
        (update("u-aaaaaaaaaa", roles=["root"]), "FIELD_INVALID"),
    ],
)
async def test_update_that_makes_no_sense_is_refused(
    house: House,
    admin: session_pb2.Session,
    request_: user_pb2.UpdateUserRequest,
    expected: str,
):
    """Nothing is stored."""
    async with house.calling(bearer(admin)) as call:
        assert await reason(call(call.users.UpdateUser, request_)) == expected


async def test_update_of_something_older_is_refused(house: House, admin: session_pb2.Session):
    """Two administrators do not undo each other unseen."""
    user = await created(house, admin)
    async with house.calling(bearer(admin)) as call:
        request = update(user.user_id, roles=["viewer"], etag=user.etag)
        await call(call.users.UpdateUser, request)
        assert await reason(call(call.users.UpdateUser, request)) == "ETAG_MISMATCH"


async def test_accounts_are_listed_oldest_first_in_pages(house: House, admin: session_pb2.Session):
    """A token goes on where the page ended, and only a token of this list."""
    user = await created(house, admin)
    async with house.calling(bearer(admin)) as call:
        first = await call(call.users.ListUsers, user_pb2.ListUsersRequest(page_size=1))
        assert [each.subject for each in first.users] == [admin.subject]
        rest = user_pb2.ListUsersRequest(page_size=1, page_token=first.next_page_token)
        second = await call(call.users.ListUsers, rest)
        assert [each.user_id for each in second.users] == [user.user_id]
        assert second.next_page_token == ""
        bad = user_pb2.ListUsersRequest(page_token="no")
        assert await reason(call(call.users.ListUsers, bad)) == "PAGE_TOKEN_INVALID"
        one = await call(call.users.GetUser, user_pb2.GetUserRequest(user_id=user.user_id))
        assert one.user == second.users[0]
        gone = user_pb2.GetUserRequest(user_id="u-aaaaaaaaaa")
        assert await reason(call(call.users.GetUser, gone)) == "RESOURCE_NOT_FOUND"


async def test_who_may_not_administrate_is_refused(house: House, admin: session_pb2.Session):
    """An operator reads accounts and changes none."""
    bob = await joined(house, admin)
    own = bob.subject.removeprefix("user:")
    async with house.calling(bearer(bob)) as call:
        await call(call.users.ListUsers, user_pb2.ListUsersRequest())
        for method, request in (
            ("CreateUser", BOB),
            ("UpdateUser", update(own, roles=["admin"])),
            ("DeleteUser", user_pb2.DeleteUserRequest(user_id=own)),
        ):
            assert await reason(call(getattr(call.users, method), request)) == "POLICY_DENIED"


async def test_disabled_account_is_out_at_once_and_stays_out(
    house: House, admin: session_pb2.Session
):
    """Its token, its refresh token and its password; enabled again, it logs in anew."""
    bob = await joined(house, admin)
    user_id = bob.subject.removeprefix("user:")
    async with house.calling(bearer(admin)) as call:
        await call(call.users.UpdateUser, update(user_id, disabled=True))
    async with house.calling(bearer(bob)) as call:
        with pytest.raises(AegisError) as refusal:
            await call(call.identity.WhoAmI, WHO)
        assert refusal.value.reason == "CREDENTIAL_REVOKED"
        assert refusal.value.metadata["credential"] == "account"
    login = session_pb2.LoginRequest(email=BOB.email, password=BOBS)
    refresh = session_pb2.RefreshSessionRequest(refresh_token=bob.refresh_token)
    async with house.calling() as call:
        assert await reason(call(call.sessions.Login, login)) == "LOGIN_FAILED"
        assert await reason(call(call.sessions.RefreshSession, refresh)) == "CREDENTIAL_REVOKED"
    async with house.calling(bearer(admin)) as call:
        await call(call.users.UpdateUser, update(user_id, disabled=False))
    async with house.calling() as call:
        assert await reason(call(call.sessions.RefreshSession, refresh)) == "CREDENTIAL_REVOKED"
        await call(call.sessions.Login, login)
    assert [r.action for r in await house.records() if r.action in ("disable", "enable")] == [
        "disable",
        "enable",
    ]


async def test_role_that_is_taken_away_counts_no_more_at_once(
    house: House, admin: session_pb2.Session
):
    """The next call is decided without it, and what was open because of it ends."""
    bob = await joined(house, admin)
    user_id = bob.subject.removeprefix("user:")
    async with house.calling(bearer(bob)) as call:
        await call(call.users.ListUsers, user_pb2.ListUsersRequest())
    caller = await house.doors._authenticate("/x", peer(bearer(bob)))
    with house.doors.leashes.hold(caller) as leash:
        async with house.calling(bearer(admin)) as call:
            await call(call.users.UpdateUser, update(user_id, roles=[]))
        with pytest.raises(AegisError, match="roles of this account were changed"):
            leash.check()
    async with house.calling(bearer(bob)) as call:
        listed = call(call.users.ListUsers, user_pb2.ListUsersRequest())
        assert await reason(listed) == "POLICY_DENIED"


def peer(authorization: str) -> Peer:
    return Peer(dict, authorization, "127.0.0.1")


async def test_deleted_account_leaves_nothing_personal(house: House, admin: session_pb2.Session):
    """No row, no mail address in any table or record; its token counts no more."""
    bob = await joined(house, admin)
    user_id = bob.subject.removeprefix("user:")
    async with house.calling(bearer(admin)) as call:
        await call(call.users.DeleteUser, user_pb2.DeleteUserRequest(user_id=user_id))
        again = user_pb2.DeleteUserRequest(user_id=user_id)
        assert await reason(call(call.users.DeleteUser, again)) == "RESOURCE_NOT_FOUND"
    async with house.calling(bearer(bob)) as call:
        assert await reason(call(call.identity.WhoAmI, WHO)) == "CREDENTIAL_REVOKED"
    async with house.calling() as call:
        refresh = session_pb2.RefreshSessionRequest(refresh_token=bob.refresh_token)
        assert await reason(call(call.sessions.RefreshSession, refresh)) == "TOKEN_INVALID"
    async with house.database.transaction() as connection:
        for table in ("person", "session", "refresh_token", "one_time_token", "audit_record"):
            cursor = await connection.execute(f"select t::text from aegis.{table} t")
            text = str(await cursor.fetchall())
            assert "bob" not in text.lower()
            assert b"bob@".hex() not in text


async def test_nobody_takes_the_right_to_administrate_from_themselves(
    house: House, admin: session_pb2.Session
):
    """Not the role, not by disabling, not by deleting; the own name may change."""
    own = admin.subject.removeprefix("user:")
    async with house.calling(bearer(admin)) as call:
        for method, request in (
            ("UpdateUser", update(own, roles=["viewer"])),
            ("UpdateUser", update(own, disabled=True)),
            ("DeleteUser", user_pb2.DeleteUserRequest(user_id=own)),
        ):
            assert await reason(call(getattr(call.users, method), request)) == "OWN_ADMIN_RIGHT"
        await call(call.users.UpdateUser, update(own, roles=["admin", "auditor"]))


async def key_of_a_program(
    call: Calls, name: str, *, role: str, scopes: tuple[str, ...] = ()
) -> str:
    """What a program with this role shows in each call."""
    account = service_account_pb2.CreateServiceAccountRequest(name=name, roles=[role])
    await call(call.machines.CreateServiceAccount, account)
    wanted = service_account_pb2.CreateApiKeyRequest(
        service_account=name, scopes=scopes, lifetime_seconds=3600
    )
    return f"Bearer {(await call(call.machines.CreateApiKey, wanted)).secret}"


async def test_only_an_administrator_makes_administrators(house: House, admin: session_pb2.Session):
    """Who the rules let write accounts becomes none, neither by the role nor by the mail of one."""
    bob = (await joined(house, admin)).subject.removeprefix("user:")
    ada = admin.subject.removeprefix("user:")
    eve = user_pb2.CreateUserRequest(email="eve@example.org", roles=["admin"])
    async with house.calling(bearer(admin)) as call:
        keeper = await key_of_a_program(call, "keeper", role="keeper")
        rules = (await call(call.policy.GetPolicy, policy_pb2.GetPolicyRequest())).csv
        rules += "\np, role:keeper, *, /identity/users, *, , allow, keeper-keeps\n"
        request = policy_pb2.ImportPolicyRequest(csv=rules, reason="a test")
        await call(call.policy.ImportPolicy, request)
    async with house.calling(keeper) as call:
        assert await reason(call(call.users.CreateUser, eve)) == "POLICY_DENIED"
        for wish in (
            update(bob, roles=["admin"]),
            update(bob, roles=["admin"], disabled=True),
            update(ada, email="eve@example.org"),
        ):
            assert await reason(call(call.users.UpdateUser, wish)) == "POLICY_DENIED"
        await call(call.users.UpdateUser, update(bob, roles=["operator"], email="b@example.org"))
    async with house.calling(bearer(admin)) as call:
        await call(call.users.UpdateUser, update(bob, roles=["admin"]))
    async with house.calling(keeper) as call:
        # In an emergency, less is always possible; more again is not.
        await call(call.users.UpdateUser, update(bob, disabled=True))
        again = call(call.users.UpdateUser, update(bob, disabled=False))
        assert await reason(again) == "POLICY_DENIED"
        await call(call.users.UpdateUser, update(bob, roles=[]))


async def test_key_with_scopes_makes_no_administrator(house: House, admin: session_pb2.Session):
    """People are bound by no scope: a key would become more through one."""
    eve = user_pb2.CreateUserRequest(email="eve@example.org", roles=["admin"])
    async with house.calling(bearer(admin)) as call:
        key = await key_of_a_program(
            call, "directory", role="admin", scopes=("write:/identity/users",)
        )
    async with house.calling(key) as call:
        assert await reason(call(call.users.CreateUser, eve)) == "SCOPE_INSUFFICIENT"
        user = (await call(call.users.CreateUser, BOB)).user
        promoting = update(user.user_id, roles=["admin"])
        assert await reason(call(call.users.UpdateUser, promoting)) == "SCOPE_INSUFFICIENT"


@pytest.mark.parametrize(
    "wishes", [Wishes(roles=()), Wishes(disabled=True), None], ids=["roles", "disabled", "deleted"]
)
async def test_last_administrator_stays(
    house: House, admin: session_pb2.Session, wishes: Wishes | None
):
    """Also when the one who asks has the right from the rules and is no account at all."""
    own = admin.subject.removeprefix("user:")
    deed = (
        house.accounts.update(ADMIN, own, wishes)
        if wishes is not None
        else house.accounts.delete(ADMIN, own)
    )
    assert await reason(deed) == "LAST_ADMIN"


async def test_of_two_administrators_who_remove_each_other_one_stays(
    house: House, admin: session_pb2.Session
):
    """At the same moment, over and over: there is always one left."""
    bob = await joined(house, admin)
    ids = [each.subject.removeprefix("user:") for each in (admin, bob)]
    for _ in range(5):
        for user_id in ids:
            await house.accounts.update(ADMIN, user_id, Wishes(roles=("admin",)))
        answers = await asyncio.gather(
            house.accounts.update(Caller(admin.subject, ""), ids[1], Wishes(roles=())),
            house.accounts.update(Caller(bob.subject, ""), ids[0], Wishes(roles=())),
            return_exceptions=True,
        )
        refused = [answer.reason for answer in answers if isinstance(answer, AegisError)]
        assert refused == ["LAST_ADMIN"]


async def test_profile_belongs_to_who_logged_in_with_a_password(
    house: House, admin: session_pb2.Session
):
    """Everybody changes their own name and nothing else."""
    async with house.calling(bearer(admin)) as call:
        request = user_pb2.UpdateProfileRequest(display_name="Ada Lovelace")
        user = (await call(call.users.UpdateProfile, request)).user
        assert (user.display_name, user.subject) == ("Ada Lovelace", admin.subject)
        broken = user_pb2.UpdateProfileRequest(display_name="a\x00b")
        assert await reason(call(call.users.UpdateProfile, broken)) == "FIELD_INVALID"


async def change(call: Calls, old: str, new: str) -> None:
    request = user_pb2.ChangePasswordRequest(old_password=old, new_password=new)
    await call(call.users.ChangePassword, request)


async def test_password_is_changed_by_who_knows_the_old_one(
    house: House, admin: session_pb2.Session
):
    """Every session but the one that did it ends; a wrong old one is counted and recorded."""
    async with house.calling() as call:
        login = session_pb2.LoginRequest(email=EMAIL, password=PASSWORD)
        other = (await call(call.sessions.Login, login)).session
    async with house.calling(bearer(admin)) as call:
        assert await reason(change(call, "wrong", BOBS)) == "LOGIN_FAILED"
        assert house.throttle.calls[-1][:2] == ("failed", "password")
        assert await reason(change(call, PASSWORD, "ada")) == "PASSWORD_WEAK"
        await change(call, PASSWORD, BOBS)
        await call(call.identity.WhoAmI, WHO)
    async with house.calling(bearer(other)) as call:
        assert await reason(call(call.identity.WhoAmI, WHO)) == "CREDENTIAL_REVOKED"
    async with house.calling() as call:
        assert await reason(call(call.sessions.Login, login)) == "LOGIN_FAILED"
        right = session_pb2.LoginRequest(email=EMAIL, password=BOBS)
        await call(call.sessions.Login, right)
    outcomes = [r.outcome for r in await house.records() if r.action == "change_password"]
    assert outcomes == ["refused", "changed"]


async def test_reset_by_mail_ends_every_session(house: House, admin: session_pb2.Session):
    """The newest token works once, within 30 minutes, and voids the others."""
    request = session_pb2.RequestPasswordResetRequest(email=EMAIL)
    async with house.calling() as call:
        await call(call.sessions.RequestPasswordReset, request)
        first = await house.token_from_mail()
        await call(call.sessions.RequestPasswordReset, request)
        second = await house.token_from_mail()
        assert first != second
        house.clock.ahead = timedelta(minutes=31)
        reset = session_pb2.ResetPasswordRequest(token=second, password=BOBS)
        assert await reason(call(call.sessions.ResetPassword, reset)) == "ONE_TIME_TOKEN_INVALID"
        assert house.throttle.calls[-1][:2] == ("failed", "reset")
        house.clock.ahead = timedelta()
        await call(call.sessions.ResetPassword, reset)
        for token in (first, second):
            again = session_pb2.ResetPasswordRequest(token=token, password=PASSWORD)
            refused = await reason(call(call.sessions.ResetPassword, again))
            assert refused == "ONE_TIME_TOKEN_INVALID"
    async with house.calling(bearer(admin)) as call:
        assert await reason(call(call.identity.WhoAmI, WHO)) == "CREDENTIAL_REVOKED"
    actions = [r.action for r in await house.records()]
    assert actions == ["bootstrap", "request_reset", "request_reset", "reset_password"]


async def test_reset_for_an_unknown_address_answers_the_same_and_mails_nothing(
    house: House, admin: session_pb2.Session
):
    """What the caller sees is the same; the record names a keyed hash."""
    async with house.calling() as call:
        for email in (EMAIL, "nobody@example.org"):
            request = session_pb2.RequestPasswordResetRequest(email=email)
            answer = await call(call.sessions.RequestPasswordReset, request)
            assert answer == session_pb2.RequestPasswordResetResponse()
    await house.outbox.empty()
    assert [mail.to for mail in house.letterbox.mails] == [EMAIL]
    record = (await house.records())[-1]
    assert (record.action, record.outcome) == ("request_reset", "ignored")
    assert b"example.org" not in record.SerializeToString()


async def test_two_resets_with_one_token_set_one_password(house: House, admin: session_pb2.Session):
    """Single use holds also at the same moment."""
    async with house.calling() as call:
        request = session_pb2.RequestPasswordResetRequest(email=EMAIL)
        await call(call.sessions.RequestPasswordReset, request)
        token = await house.token_from_mail()
        answers = await asyncio.gather(
            *(
                call(
                    call.sessions.ResetPassword,
                    session_pb2.ResetPasswordRequest(token=token, password=password),
                )
                for password in (BOBS, "two yellow newts")
            ),
            return_exceptions=True,
        )
    refused = [answer.reason for answer in answers if isinstance(answer, AegisError)]
    assert refused == ["ONE_TIME_TOKEN_INVALID"]


@pytest.mark.parametrize(
    "change",
    [
        "delete from aegis.person where email_key = 'ada@example.org'",
        "update aegis.person set email = 'new@example.org', email_key = 'new@example.org'",
        "update aegis.person set disabled = true",
    ],
)
async def test_reset_waits_for_what_becomes_of_the_account(
    house: House, admin: session_pb2.Session, change: str
):
    """An account that is deleted, disabled or gets another address meanwhile gets no mail, and the
    queue goes on.
    """
    async with house.database.transaction() as connection:
        await connection.execute(change)
        async with house.calling() as call:
            request = session_pb2.RequestPasswordResetRequest(email=EMAIL)
            await call(call.sessions.RequestPasswordReset, request)
        await _until_somebody_waits(house)
    async with asyncio.timeout(5):
        await house.outbox.empty()
    assert house.letterbox.mails == []
    assert [r.outcome for r in await house.records() if r.action == "request_reset"] == ["ignored"]


async def _until_somebody_waits(house: House) -> None:
    """Returns once a transaction of the server waits for a lock of another, or two seconds on."""
    async with house.database.transaction() as connection:
        for _ in range(40):
            cursor = await connection.execute("select count(*) from pg_locks where not granted")
            if await cursor.fetchone() != (0,):
                return
            await asyncio.sleep(0.05)
