"""`aegis login --oidc`: a session at the identity provider that the control plane names."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc

from aegis.channel import Bearer, connect
from aegis.cli import tokens
from aegis.cli.device import DeviceLogin, Grant, Tokens
from aegis.cli.session import SECONDS, anonymous_channel, err, fail, target
from aegis.cli.tokens import StoredSession
from aegis.errors import from_rpc_error
from aegis.v1 import identity_pb2, identity_pb2_grpc, session_pb2, session_pb2_grpc


async def login(address: str) -> StoredSession:
    """Begins a session and keeps it; raises what provider and control plane refuse with."""
    provider = await _provider()
    async with DeviceLogin(provider.issuer, provider.client_id) as device:
        grant = await device.begin(tuple(provider.scopes))
        _show(grant)
        given = await device.wait(grant)
    # Kept only once the control plane takes it: a login that opens nothing is none.
    stored = StoredSession(
        address=address,
        subject=await _subject(address, given),
        access_token=given.token,
        access_ends_at=_text(given.ends_at),
        refresh_token=given.refresh_token,
        refresh_ends_at="",
        kind="oidc",
        issuer=provider.issuer,
        client_id=provider.client_id,
    )
    async with tokens.locked(target.home):
        tokens.keep(target.home, stored)
    return stored


async def _provider() -> session_pb2.IdentityProvider:
    async with anonymous_channel() as opened:
        stub = session_pb2_grpc.SessionServiceStub(opened)
        options = await stub.GetLoginOptions(session_pb2.GetLoginOptionsRequest(), timeout=SECONDS)
    if not options.HasField("identity_provider"):
        fail("this control plane has no identity provider", "`aegis login`, with a password")
    return options.identity_provider


async def _subject(address: str, given: Tokens) -> str:
    async with connect(address, Bearer(target.roots, given.token), retries=False) as opened:
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        try:
            me = await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    return me.subject


def _show(grant: Grant) -> None:
    # To standard error: what a program reads is the answer, not the way to it.
    def say(text: str) -> None:
        err.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"open {grant.uri} and enter the code {grant.user_code}")
    if grant.uri_with_code:
        say(f"or open {grant.uri_with_code}, and compare the code")
    say(f"waiting for {grant.lifetime_seconds / 60:.0f} minutes; Ctrl-C gives up")


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
