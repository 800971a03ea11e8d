"""Text from strangers: whatever it looks like, it is only text, in every method that takes some."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.integration.identity.house import EMAIL, PASSWORD, Calls, House, bearer

from aegis.errors import AegisError
from aegis.v1 import service_account_pb2, session_pb2, user_pb2

ODD = [
    "'; drop table aegis.person; --",
    "' or '1'='1",
    "%",
    "\\",
    "%(user_id)s",
    "a\n2030-01-01 INFO aegis: admin logged in",
    "a\r\x1b[2J",
    "\0",
    "\u202e\ufeff",
    "[bold]x[/]",
]
REFUSALS = {
    "FIELD_INVALID",
    "LOGIN_FAILED",
    "ONE_TIME_TOKEN_INVALID",
    "BOOTSTRAP_CLOSED",
    "PAGE_TOKEN_INVALID",
    "PASSWORD_WEAK",
    "RESOURCE_NOT_FOUND",
    "TOKEN_INVALID",
}


def asked(call: Calls, odd: str) -> list[tuple[object, object]]:
    """Every method with its text replaced, and what it is given."""
    sessions, users, machines = call.sessions, call.users, call.machines
    good = "new@example.org"
    return [
        (sessions.Login, session_pb2.LoginRequest(email=odd, password=odd, device_token=odd)),
        (sessions.Login, session_pb2.LoginRequest(email=EMAIL, password=odd)),
        (sessions.RefreshSession, session_pb2.RefreshSessionRequest(refresh_token=odd)),
        (sessions.Logout, session_pb2.LogoutRequest(refresh_token=odd)),
        (sessions.ResetPassword, session_pb2.ResetPasswordRequest(token=odd, password=odd)),
        (
            sessions.Bootstrap,
            session_pb2.BootstrapRequest(token=odd, email=good, password=PASSWORD),
        ),
        (users.CreateUser, user_pb2.CreateUserRequest(email=odd)),
        (users.CreateUser, user_pb2.CreateUserRequest(email=good, roles=[odd])),
        (users.GetUser, user_pb2.GetUserRequest(user_id=odd)),
        (users.DeleteUser, user_pb2.DeleteUserRequest(user_id=odd)),
        (users.ListUsers, user_pb2.ListUsersRequest(page_token=odd)),
        (
            users.UpdateUser,
            user_pb2.UpdateUserRequest(user_id=odd, update_mask=FieldMask(paths=["disabled"])),
        ),
        (
            users.UpdateUser,
            user_pb2.UpdateUserRequest(user_id="u-a", update_mask=FieldMask(paths=[odd])),
        ),
        (
            users.ChangePassword,
            user_pb2.ChangePasswordRequest(old_password=odd, new_password=PASSWORD),
        ),
        (
            machines.CreateServiceAccount,
            service_account_pb2.CreateServiceAccountRequest(name=odd),
        ),
        (
            machines.CreateServiceAccount,
            service_account_pb2.CreateServiceAccountRequest(name="robot", roles=[odd]),
        ),
        (
            machines.DeleteServiceAccount,
            service_account_pb2.DeleteServiceAccountRequest(name=odd),
        ),
        (
            machines.ListServiceAccounts,
            service_account_pb2.ListServiceAccountsRequest(page_token=odd),
        ),
        (machines.ListApiKeys, service_account_pb2.ListApiKeysRequest(service_account=odd)),
        (machines.RevokeApiKey, service_account_pb2.RevokeApiKeyRequest(key_id=odd)),
        (
            machines.CreateApiKey,
            service_account_pb2.CreateApiKeyRequest(
                service_account="robot", scopes=[odd], lifetime_seconds=60
            ),
        ),
    ]


@pytest.mark.parametrize("odd", ODD)
async def test_text_that_looks_like_a_statement_is_only_text(
    house: House, admin: session_pb2.Session, odd: str
):
    """A refusal with a reason in every place, and nobody is changed."""
    before = await house.version()
    async with house.calling(bearer(admin)) as call:
        for method, request in asked(call, odd):
            with pytest.raises(AegisError) as refusal:
                await call(method, request)
            assert refusal.value.reason in REFUSALS, (type(request).__name__, refusal.value)
        request = session_pb2.RequestPasswordResetRequest(email=odd)
        await call(call.sessions.RequestPasswordReset, request)
        await house.outbox.empty()
        profile = (await call(call.users.GetProfile, user_pb2.GetProfileRequest())).user
    assert (profile.email, profile.roles) == (EMAIL, ["admin"])
    assert (await house.version(), house.letterbox.mails) == (before, [])


async def test_name_may_hold_what_a_statement_would_be(house: House, admin: session_pb2.Session):
    """It comes back as it was given."""
    async with house.calling(bearer(admin)) as call:
        for odd in filter(str.isprintable, ODD):
            request = user_pb2.UpdateProfileRequest(display_name=odd)
            assert (await call(call.users.UpdateProfile, request)).user.display_name == odd


async def test_page_token_of_another_list_is_refused(house: House, admin: session_pb2.Session):
    """A token continues the query that gave it and no other."""
    async with house.calling(bearer(admin)) as call:
        for name in ("a", "b"):
            request = service_account_pb2.CreateServiceAccountRequest(name=name)
            await call(call.machines.CreateServiceAccount, request)
        pages = service_account_pb2.ListServiceAccountsRequest(page_size=1)
        token = (await call(call.machines.ListServiceAccounts, pages)).next_page_token
        assert token
        with pytest.raises(AegisError) as refusal:
            await call(call.users.ListUsers, user_pb2.ListUsersRequest(page_token=token))
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"
