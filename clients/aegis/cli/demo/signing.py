"""Automation in the demo: what it signs, sends and follows."""

from __future__ import annotations

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from aegis.cli.action import telling
from aegis.envelope import sign_action
from aegis.remediation import OnChange, Remediator
from aegis.v1 import envelope_pb2, execution_pb2, execution_pb2_grpc

ISSUER, AUDIENCE = "automation:autopilot", "aegis"


class Autopilot:
    """Speaks as automation:autopilot, over a channel without retries."""

    def __init__(self, channel: grpc.aio.Channel, key: Ed25519PrivateKey) -> None:
        self._stub = execution_pb2_grpc.ExecutionServiceStub(channel)
        self._key = key
        self.remediator = Remediator(channel, key=key, issuer=ISSUER, audience=AUDIENCE)

    def signed(self, spec: bytes, reason: str) -> envelope_pb2.SignedEnvelope:
        """Returns a request to carry it out."""
        return sign_action(spec, key=self._key, issuer=ISSUER, audience=AUDIENCE, reason=reason)

    async def send(self, envelope: envelope_pb2.SignedEnvelope) -> execution_pb2.Action:
        """Sends it as it is, once; raises what gRPC raises."""
        request = execution_pb2.SubmitActionRequest(envelope=envelope)
        return (await self._stub.SubmitAction(request, timeout=30)).action

    async def follow(self, action: execution_pb2.Action, console: Console) -> execution_pb2.Action:
        """Tells each change until it has ended."""
        return await self.remediator.resume(action, on_change=teller(console))


def teller(console: Console) -> OnChange:
    """Returns what prints a line for each change of an action."""
    return lambda action: telling.tell([telling.progress(action)], console)


def tampered(envelope: envelope_pb2.SignedEnvelope) -> envelope_pb2.SignedEnvelope:
    """Returns it with one byte of what was signed changed."""
    altered = envelope_pb2.SignedEnvelope()
    altered.CopyFrom(envelope)
    middle = len(altered.payload) // 2
    altered.payload = (
        altered.payload[:middle]
        + bytes([altered.payload[middle] ^ 1])
        + altered.payload[middle + 1 :]
    )
    return altered
