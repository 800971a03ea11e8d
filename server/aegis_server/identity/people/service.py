"""SessionService and UserService: wire to values and back."""

from __future__ import annotations

from aegis.errors import FieldViolation, InvalidArgument, NotFound
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call, validate
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import session_pb2, session_pb2_grpc, user_pb2, user_pb2_grpc
from aegis_server.identity.people.accounts import Accounts, Wishes
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.mail import can_be_sent_to
from aegis_server.identity.people.resets import Resets
from aegis_server.identity.people.sessions import Session, Sessions
from aegis_server.identity.people.store import Person

_UPDATABLE = ("email", "display_name", "roles", "disabled")


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """How people prove who they are; no call of it needs an identity."""

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        sessions: Sessions,
        resets: Resets,
        deeds: Deeds,
        identity_provider: session_pb2.IdentityProvider | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._sessions = sessions
        self._resets = resets
        self._deeds = deeds
        self._identity_provider = identity_provider

    async def Bootstrap(
        self, request: session_pb2.BootstrapRequest, context: Context
    ) -> session_pb2.BootstrapResponse:
        """Makes the first administrator."""
        _check_email(request.email)
        _check_name(request.display_name)
        session = await self._deeds.finish(
            self._bootstrap.make_administrator(
                request.token,
                email=request.email,
                display_name=request.display_name,
                password=request.password,
                caller_address=current_call().caller.address,
            )
        )
        return session_pb2.BootstrapResponse(session=_session(session))

    async def Login(
        self, request: session_pb2.LoginRequest, context: Context
    ) -> session_pb2.LoginResponse:
        """Begins a session. An attempt is counted also when the caller does not wait."""
        session = await self._deeds.finish(
            self._sessions.login(
                request.email,
                request.password,
                device_token=request.device_token,
                caller_address=current_call().caller.address,
            )
        )
        return session_pb2.LoginResponse(session=_session(session))

    async def RefreshSession(
        self, request: session_pb2.RefreshSessionRequest, context: Context
    ) -> session_pb2.RefreshSessionResponse:
        """Spends a refresh token for a new pair."""
        session = await self._deeds.finish(self._sessions.refresh(request.refresh_token))
        return session_pb2.RefreshSessionResponse(session=_session(session))

    async def Logout(
        self, request: session_pb2.LogoutRequest, context: Context
    ) -> session_pb2.LogoutResponse:
        """Ends one session or all of an account."""
        await self._deeds.finish(
            self._sessions.logout(request.refresh_token, everywhere=request.everywhere)
        )
        return session_pb2.LogoutResponse()

    async def RequestPasswordReset(
        self, request: session_pb2.RequestPasswordResetRequest, context: Context
    ) -> session_pb2.RequestPasswordResetResponse:
        """Mails a token, maybe."""
        await self._resets.request(request.email, caller_address=current_call().caller.address)
        return session_pb2.RequestPasswordResetResponse()

    async def ResetPassword(
        self, request: session_pb2.ResetPasswordRequest, context: Context
    ) -> session_pb2.ResetPasswordResponse:
        """Sets a password with a token."""
        await self._deeds.finish(
            self._resets.reset(
                request.token,
                request.password,
                caller_address=current_call().caller.address,
            )
        )
        return session_pb2.ResetPasswordResponse()

    async def GetLoginOptions(
        self, request: session_pb2.GetLoginOptionsRequest, context: Context
    ) -> session_pb2.GetLoginOptionsResponse:
        """With a password always, at an identity provider where one is configured."""
        return session_pb2.GetLoginOptionsResponse(
            password=True, identity_provider=self._identity_provider
        )


class UserService(user_pb2_grpc.UserServiceServicer):
    """Accounts, and what people do with their own."""

    def __init__(self, accounts: Accounts, resets: Resets, deeds: Deeds) -> None:
        self._accounts = accounts
        self._resets = resets
        self._deeds = deeds

    async def CreateUser(
        self, request: user_pb2.CreateUserRequest, context: Context
    ) -> user_pb2.CreateUserResponse:
        """Makes an account and mails an invitation."""
        _check_email(request.email)
        _check_name(request.display_name)
        person = await self._deeds.finish(
            self._accounts.create(
                current_call().caller,
                email=request.email,
                display_name=request.display_name,
                roles=tuple(request.roles),
            )
        )
        return user_pb2.CreateUserResponse(user=_user(person))

    async def GetUser(
        self, request: user_pb2.GetUserRequest, context: Context
    ) -> user_pb2.GetUserResponse:
        """One account."""
        return user_pb2.GetUserResponse(user=_user(await self._accounts.get(request.user_id)))

    async def ListUsers(
        self, request: user_pb2.ListUsersRequest, context: Context
    ) -> user_pb2.ListUsersResponse:
        """A page of accounts, oldest first."""
        after = _position(request.page_token)
        size = page_size(request.page_size)
        people = await self._accounts.list(after=after, limit=size + 1)
        more = len(people) > size
        return user_pb2.ListUsersResponse(
            users=map(_user, people[:size]),
            next_page_token=encode_token(people[size - 1].number, "users") if more else "",
        )

    async def UpdateUser(
        self, request: user_pb2.UpdateUserRequest, context: Context
    ) -> user_pb2.UpdateUserResponse:
        """Changes what the mask names."""
        person = await self._deeds.finish(
            self._accounts.update(current_call().caller, request.user_id, _wishes(request))
        )
        return user_pb2.UpdateUserResponse(user=_user(person))

    async def DeleteUser(
        self, request: user_pb2.DeleteUserRequest, context: Context
    ) -> user_pb2.DeleteUserResponse:
        """Erases an account."""
        await self._deeds.finish(self._accounts.delete(current_call().caller, request.user_id))
        return user_pb2.DeleteUserResponse()

    async def GetProfile(
        self, request: user_pb2.GetProfileRequest, context: Context
    ) -> user_pb2.GetProfileResponse:
        """The caller's own account."""
        return user_pb2.GetProfileResponse(user=_user(await self._accounts.get(_own_id())))

    async def UpdateProfile(
        self, request: user_pb2.UpdateProfileRequest, context: Context
    ) -> user_pb2.UpdateProfileResponse:
        """The caller's own name."""
        _check_name(request.display_name)
        person = await self._deeds.finish(
            self._accounts.update(
                current_call().caller, _own_id(), Wishes(display_name=request.display_name)
            )
        )
        return user_pb2.UpdateProfileResponse(user=_user(person))

    async def ChangePassword(
        self, request: user_pb2.ChangePasswordRequest, context: Context
    ) -> user_pb2.ChangePasswordResponse:
        """The caller's own password."""
        caller = current_call().caller
        await self._deeds.finish(
            self._resets.change(
                _own_id(),
                request.old_password,
                request.new_password,
                session_id=caller.credential,
                caller_address=caller.address,
            )
        )
        return user_pb2.ChangePasswordResponse()


def _own_id() -> str:
    """Returns the caller's user id; raises `NotFound` for who did not log in with a password."""
    caller = current_call().caller
    if caller.method != "session":
        raise NotFound(
            "RESOURCE_NOT_FOUND",
            f"{caller.subject} has no profile: only who logs in with a password has one",
            resource=caller.subject,
        )
    return caller.subject.removeprefix("user:")


def _wishes(request: user_pb2.UpdateUserRequest) -> Wishes:
    paths = set(request.update_mask.paths)
    if not paths or not paths <= set(_UPDATABLE):
        raise _field_invalid("update_mask", f"names some of {', '.join(_UPDATABLE)}")
    if "email" in paths:
        # The address may be left out here, but not be anything but an address.
        validate(user_pb2.CreateUserRequest(email=request.email))
        _check_email(request.email)
    if "display_name" in paths:
        _check_name(request.display_name)
    return Wishes(
        email=request.email if "email" in paths else None,
        display_name=request.display_name if "display_name" in paths else None,
        roles=tuple(request.roles) if "roles" in paths else None,
        disabled=request.disabled if "disabled" in paths else None,
        etag=request.etag,
    )


def _check_email(email: str) -> None:
    if not can_be_sent_to(email):
        raise _field_invalid("email", "no encoded words")


def _check_name(display_name: str) -> None:
    if not display_name.isprintable():
        raise _field_invalid("display_name", "a name is one line of printable characters")


def _field_invalid(field: str, text: str) -> InvalidArgument:
    violation = FieldViolation(field, text)
    return InvalidArgument("FIELD_INVALID", f"{field}: {text}", violations=[violation])


def _position(page_token: str) -> int:
    position = decode_token(page_token, "users")
    return position if isinstance(position, int) else 0


def _session(session: Session) -> session_pb2.Session:
    message = session_pb2.Session(
        access_token=session.access_token,
        refresh_token=session.refresh_token,
        subject=session.subject,
        device_token=session.device_token,
    )
    message.access_expire_time.FromDatetime(session.access_ends_at)
    message.refresh_expire_time.FromDatetime(session.refresh_ends_at)
    return message


def _user(person: Person) -> user_pb2.User:
    message = user_pb2.User(
        user_id=person.user_id,
        subject=person.subject,
        email=person.email,
        display_name=person.display_name,
        roles=person.roles,
        state=_state(person),
        etag=person.etag,
    )
    message.create_time.FromDatetime(person.created_at)
    if person.last_login_at is not None:
        message.last_login_time.FromDatetime(person.last_login_at)
    return message


def _state(person: Person) -> user_pb2.User.State.ValueType:
    if person.disabled:
        return user_pb2.User.STATE_DISABLED
    if person.password_hash is None:
        return user_pb2.User.STATE_INVITED
    return user_pb2.User.STATE_ACTIVE
