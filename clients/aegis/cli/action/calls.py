"""What the commands about remediations share: calls, the signing key, and how a command ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import grpc
import typer

from aegis.actions import OPEN, UNHEALED, WAITING, Action, insist
from aegis.algorithms import PrivateKey, load_signing_key
from aegis.cli.session import SECONDS, channel, fail, run, target
from aegis.remediation import Remediator
from aegis.v1 import execution_pb2, execution_pb2_grpc, identity_pb2, identity_pb2_grpc

Answer = TypeVar("Answer")
Stub = execution_pb2_grpc.ExecutionServiceStub

EXITS = (
    "Exits 0 when it is done (or, with --no-wait, on its way), 1 when the server refused, 2 when"
    " the command was wrong, 3 when it was done and did not help, 4 when it was not done, 5 when"
    " nobody knows whether it was, 6 when it waits for people."
)
DONE, UNHELPFUL, NOT_DONE, UNKNOWN, WAITS = 0, 3, 4, 5, 6

ActionArgument = Annotated[
    str, typer.Argument(metavar="ACTION", help="As `aegis action list` shows it.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help="Signing key; else PKI/NAME-signing.key of --as.", dir_okay=False),
]
AudienceOption = Annotated[str, typer.Option(help="As the server's AEGIS_AUDIENCE.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for people; kept with it.")]
AttributeOption = Annotated[
    list[str] | None,
    typer.Option("--attr", help="NAME=VALUE that conditions read as ctx.request.NAME; repeatable."),
]


def ask(call: Callable[[Stub], Awaitable[Answer]]) -> Answer:
    """Calls ExecutionService; a refusal ends the command."""
    return over(lambda opened: call(Stub(opened)))


def over(call: Callable[[grpc.aio.Channel], Awaitable[Answer]]) -> Answer:
    """Does something over the channel the options ask for; a refusal ends the command."""

    async def calling() -> Answer:
        async with channel() as opened:
            return await call(opened)

    return run(calling())


def action_of(action_id: str) -> execution_pb2.Action:
    """Returns one action."""
    request = execution_pb2.GetActionRequest(action_id=action_id)

    async def get(stub: Stub) -> execution_pb2.GetActionResponse:
        return await stub.GetAction(request, timeout=SECONDS)

    return ask(get).action


@asynccontextmanager
async def remediating(key: Path | None, audience: str) -> AsyncIterator[Remediator]:
    """Gives who signs as the caller; each try has an envelope of its own."""
    async with channel(retries=False) as opened:
        me = await insist(lambda: whoami(opened))
        signer = signing_key(key, "signing")
        yield Remediator(opened, key=signer, issuer=me.subject, audience=audience)


async def whoami(opened: grpc.aio.Channel) -> identity_pb2.WhoAmIResponse:
    """Returns who the server takes the caller for."""
    stub = identity_pb2_grpc.IdentityServiceStub(opened)
    return await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=SECONDS)


def signing_key(file: Path | None, use: str) -> PrivateKey:
    """Reads a private key, by default PKI/NAME-`use`.key; ends the command when there is none."""
    file = (file or target.home / "pki" / f"{target.name}-{use}.key").expanduser()
    if not file.is_file():
        fail(f"there is no signing key {file}", "use `aegis --as autopilot`, or --key FILE")
    try:
        return load_signing_key(file)
    except (OSError, TypeError, ValueError) as error:
        fail(f"{file} cannot be used: {error}", "see `aegis keys generate --help`")


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """Returns NAME=VALUE options as a map; ends the command for one that is none."""
    found = dict[str, str]()
    for text in given or []:
        name, sign, value = text.partition("=")
        if not sign or not name:
            fail(f"{option} {text!r} has no name or no value", f"write {option} NAME=VALUE")
        found[name] = value
    return found


def exit_code(action: execution_pb2.Action, *, waited: bool = True) -> int:
    """Returns how a command about this action ends; `EXITS` says it in words."""
    if action.state in (Action.STATE_VERIFIED, Action.STATE_DRY_RUN):
        return DONE
    if action.state in WAITING:
        return WAITS
    if action.state in OPEN:
        return WAITS if waited else DONE
    if action.state in UNHEALED:
        return UNHELPFUL
    return UNKNOWN if action.state == Action.STATE_UNKNOWN else NOT_DONE
