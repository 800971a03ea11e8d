"""`aegis login` and what people do with accounts.

Passwords and tokens come from a prompt that does not show them, or from standard input: an
argument would be seen by everybody who lists processes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import grpc
import typer

from aegis.cli import tokens
from aegis.cli.paging import every
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    anonymous_channel,
    channel,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    target,
    when,
)
from aegis.v1 import session_pb2, session_pb2_grpc, user_pb2, user_pb2_grpc

password = typer.Typer(no_args_is_help=True, help="Change a password, or set a new one by mail.")
profile = typer.Typer(no_args_is_help=True, help="Your own account.")
users = typer.Typer(no_args_is_help=True, help="Accounts of people.")

EmailOption = Annotated[str | None, typer.Option(help="Asked for when left out.")]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="The password is a line of it.")
]
UserArgument = Annotated[str, typer.Argument(help="e.g. u-7f3k9q2mab")]
RolesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role", help="admin, operator, oncall, auditor, viewer, participant; repeatable."
    ),
]


def login(
    email: EmailOption = None,
    password_stdin: StdinOption = False,
    oidc: Annotated[
        bool, typer.Option("--oidc", help="At the identity provider, in a browser.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Log in; commands without --as are run as you from then on."""
    address = target.door()
    if oidc:
        _login_at_provider(address, output)
        return
    email = email or typer.prompt("E-mail")
    (secret,) = _secrets(password_stdin, "Password")
    request = session_pb2.LoginRequest(
        email=email, password=secret, device_token=tokens.device_token(target.home, email)
    )
    session = run(_login(request)).session
    tokens.keep_device_token(target.home, email, session.device_token)
    _keep(address, session, output)


def _login_at_provider(address: str, output: Output) -> None:
    # Only here, because an HTTP client takes longer to load than most commands to run.
    from aegis.cli import federated

    stored = run(federated.login(address))
    _say_who(stored.subject, output)


def bootstrap(
    email: EmailOption = None,
    name: Annotated[str, typer.Option(help="Shown to other people.")] = "",
    password_stdin: StdinOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Make the first administrator, with the token the server wrote, and log in."""
    address = target.door()
    file = target.home / "blobs" / "bootstrap-token"
    if file.is_file():
        token = file.read_text().strip()
    else:
        (token,) = _secrets(False, "Token from the server's bootstrap-token file")
    email = email or typer.prompt("E-mail")
    (secret,) = _secrets(password_stdin, "New password")
    request = session_pb2.BootstrapRequest(
        token=token, email=email, display_name=name, password=secret
    )
    _keep(address, run(_bootstrap(request)).session, output)


def logout(
    everywhere: Annotated[bool, typer.Option(help="On every device.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """End your session."""
    if tokens.read(target.home) is None:
        fail("nobody is logged in", "`aegis login`")
    run(_logout(everywhere))
    _say(output, {"logged_in": False}, "logged out")


@password.command("change")
def change_password(
    password_stdin: StdinOption = False, output: OutputOption = Output.table
) -> None:
    """Change your password; from standard input: the old one, then the new one."""
    old, new = _secrets(password_stdin, "Old password", "New password")
    run(_user("ChangePassword", user_pb2.ChangePasswordRequest(old_password=old, new_password=new)))
    _say(output, {"changed": True}, "changed; every other session of yours has ended")


@password.command()
def forgot(email: EmailOption = None, output: OutputOption = Output.table) -> None:
    """Have a token mailed that sets a new password."""
    request = session_pb2.RequestPasswordResetRequest(email=email or typer.prompt("E-mail"))
    run(_session("RequestPasswordReset", request))
    _say(output, {"requested": True}, "if the address is known, a mail is on its way")


@password.command()
def reset(password_stdin: StdinOption = False, output: OutputOption = Output.table) -> None:
    """Set a new password; from standard input: the token from the mail, then the password."""
    token, new = _secrets(password_stdin, "Token from the mail", "New password")
    run(_session("ResetPassword", session_pb2.ResetPasswordRequest(token=token, password=new)))
    _say(output, {"changed": True}, "set; log in with `aegis login`")


@profile.command("show")
def show_profile(output: OutputOption = Output.table) -> None:
    """Show your account."""
    _show(run(_user("GetProfile", user_pb2.GetProfileRequest())).user, output)


@profile.command("set")
def set_profile(
    name: Annotated[str, typer.Option(help="Shown to other people.")],
    output: OutputOption = Output.table,
) -> None:
    """Change your name."""
    request = user_pb2.UpdateProfileRequest(display_name=name)
    _show(run(_user("UpdateProfile", request)).user, output)


@users.command("list")
def list_users(output: OutputOption = Output.table) -> None:
    """List accounts, oldest first."""
    found = run(_all_users())
    if output is Output.json:
        show_json(found)
    else:
        _table("accounts", found)


@users.command()
def create(
    email: Annotated[str, typer.Argument(help="Where the invitation goes.")],
    name: Annotated[str, typer.Option(help="Shown to other people.")] = "",
    role: RolesOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Make an account; its owner gets a mail and sets a password."""
    request = user_pb2.CreateUserRequest(email=email, display_name=name, roles=role or [])
    _show(run(_user("CreateUser", request)).user, output)


@users.command()
def show(user: UserArgument, output: OutputOption = Output.table) -> None:
    """Show an account."""
    _show(run(_user("GetUser", user_pb2.GetUserRequest(user_id=user))).user, output)


@users.command()
def update(
    user: UserArgument,
    email: Annotated[str | None, typer.Option()] = None,
    name: Annotated[str | None, typer.Option(help="Shown to other people.")] = None,
    role: RolesOption = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Take every role away.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Change an account; --role names all the roles it is to have."""
    request = user_pb2.UpdateUserRequest(user_id=user)
    wishes = {"email": email, "display_name": name}
    for field, value in wishes.items():
        if value is not None:
            setattr(request, field, value)
            request.update_mask.paths.append(field)
    if role or no_roles:
        request.roles.extend([] if no_roles else role or [])
        request.update_mask.paths.append("roles")
    if not request.update_mask.paths:
        fail("nothing to change", "see `aegis users update --help`")
    _show(run(_user("UpdateUser", request)).user, output)


@users.command()
def disable(user: UserArgument, output: OutputOption = Output.table) -> None:
    """Keep somebody out; every session of theirs ends within two seconds."""
    _set_disabled(user, True, output)


@users.command()
def enable(user: UserArgument, output: OutputOption = Output.table) -> None:
    """Let somebody in again."""
    _set_disabled(user, False, output)


@users.command()
def delete(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Erase an account with everything personal; there is no way back."""
    if not yes:
        typer.confirm(f"Erase {user}?", abort=True)
    run(_user("DeleteUser", user_pb2.DeleteUserRequest(user_id=user)))
    _say(output, {"deleted": user}, f"{user} is erased")


def _secrets(stdin: bool, *names: str) -> Sequence[str]:
    """Returns a secret for each name, from hidden prompts or from a line each."""
    if not stdin:
        return [
            typer.prompt(name, hide_input=True, confirmation_prompt=name == "New password")
            for name in names
        ]
    lines = [sys.stdin.readline().rstrip("\n") for _ in names]
    if not all(lines):
        fail(f"standard input lacks: {', '.join(names)}", "one line each, in this order")
    return lines


def _set_disabled(user: str, disabled: bool, output: Output) -> None:
    request = user_pb2.UpdateUserRequest(user_id=user, disabled=disabled)
    request.update_mask.paths.append("disabled")
    _show(run(_user("UpdateUser", request)).user, output)


def _keep(address: str, session: session_pb2.Session, output: Output) -> None:
    run(_store(tokens.StoredSession.of(address, session)))
    _say_who(session.subject, output)


def _say_who(subject: str, output: Output) -> None:
    # Not the tokens: what is printed ends up in scroll-back buffers and logs.
    _say(output, {"subject": subject, "logged_in": True}, f"logged in as {subject}")


def _say(output: Output, answer: dict[str, Any], text: str) -> None:
    if output is Output.json:
        show_json(answer)
    else:
        out.print(text, highlight=False, markup=False)


def _show(user: user_pb2.User, output: Output) -> None:
    if output is Output.json:
        show_json(user)
    else:
        _table("account", [user])


def _table(title: str, found: Sequence[user_pb2.User]) -> None:
    show_table(
        title,
        ["user", "e-mail", "name", "roles", "state", "last login"],
        [
            (
                user.user_id,
                user.email,
                user.display_name,
                " ".join(user.roles),
                name_of(user_pb2.User.State, user.state, "STATE_"),
                when(user, "last_login_time"),
            )
            for user in found
        ],
        folding=["e-mail", "name", "roles"],
        spare=["last login", "name"],
    )


async def _login(request: session_pb2.LoginRequest) -> session_pb2.LoginResponse:
    async with anonymous_channel() as opened:
        return await session_pb2_grpc.SessionServiceStub(opened).Login(request, timeout=SECONDS)


async def _bootstrap(request: session_pb2.BootstrapRequest) -> session_pb2.BootstrapResponse:
    async with anonymous_channel() as opened:
        return await session_pb2_grpc.SessionServiceStub(opened).Bootstrap(request, timeout=SECONDS)


async def _store(stored: tokens.StoredSession) -> None:
    # A command that refreshes at this moment would put the session from before back over this one.
    async with tokens.locked(target.home):
        tokens.keep(target.home, stored)


async def _session(method: str, request: Any) -> Any:
    async with anonymous_channel() as opened:
        stub = session_pb2_grpc.SessionServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)


async def _logout(everywhere: bool) -> None:
    async with tokens.locked(target.home):
        stored = tokens.read(target.home)
        if stored is None:
            return
        if stored.kind == "oidc":
            tokens.forget(target.home)
            await tokens.end_at_provider(stored)
            return
        target.address = target.address or stored.address
        request = session_pb2.LogoutRequest(
            refresh_token=stored.refresh_token, everywhere=everywhere
        )
        try:
            await _session("Logout", request)
        except grpc.aio.AioRpcError as error:
            # Of a session that no server knows, only what is here is left to end.
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                tokens.forget(target.home)
            raise
        tokens.forget(target.home)


async def _user(method: str, request: Any) -> Any:
    async with channel() as opened:
        stub = user_pb2_grpc.UserServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)


async def _all_users() -> list[user_pb2.User]:
    return await every(_user, "ListUsers", user_pb2.ListUsersRequest(), "users")
