"""ParticipantService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from aegis.errors import FailedPrecondition
from aegis.jointoken import JoinToken
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.spiffe import Caller
from aegis.v1 import participant_pb2 as pb
from aegis.v1 import participant_pb2_grpc
from aegis_server.participants import wire
from aegis_server.participants.enrolment import Enrolment
from aegis_server.participants.holdings.holdings import Declaration, Holdings
from aegis_server.participants.participants import Participants, named

_LIFETIME = timedelta(days=1)


class Streams(Protocol):
    """Who attends to participants' streams."""

    def attend(
        self, requests: AsyncIterator[pb.AttendRequest], caller: Caller
    ) -> AsyncIterator[pb.AttendResponse]:
        """Serves one stream of an enrolled participant, until it ends."""


@dataclass(frozen=True, slots=True)
class Doorway:
    """How sites reach this server: `address` by certificate, `token_address` without one.

    Empty where that is not known, or where nobody without a certificate is served.
    """

    address: str
    token_address: str


class ParticipantService(participant_pb2_grpc.ParticipantServiceServicer):
    """Invitations, enrolment, what participants hold, and their streams.

    `doorway` is asked when a site needs to know, because ports are bound late; `roots` is the PEM
    file of those whom sites trust as the server.
    """

    def __init__(
        self,
        participants: Participants,
        enrolment: Enrolment,
        holdings: Holdings,
        streams: Streams,
        deeds: Deeds,
        *,
        doorway: Callable[[], Doorway],
        roots: Path,
        trust_domain: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._participants = participants
        self._enrolment = enrolment
        self._holdings = holdings
        self._streams = streams
        self._deeds = deeds
        self._doorway = doorway
        self._roots = roots
        self._trust_domain = trust_domain
        self._clock = clock

    async def InviteParticipant(
        self, request: pb.InviteParticipantRequest, context: Context
    ) -> pb.InviteParticipantResponse:
        """The token leaves here and is kept nowhere."""
        doorway = self._doorway()
        if not (doorway.address and doorway.token_address):
            raise FailedPrecondition(
                "ENROLMENT_UNAVAILABLE",
                "this server does not know how sites reach it: it needs AEGIS_TOKEN_LISTEN, and"
                " AEGIS_ADVERTISE and AEGIS_TOKEN_ADVERTISE where it listens on every address",
            )
        lifetime = request.lifetime.ToTimedelta() if request.HasField("lifetime") else _LIFETIME
        invitation = await self._deeds.finish(
            self._participants.invite(
                request.name,
                [(bound.dataset, bound.rows_max) for bound in request.datasets],
                lifetime=lifetime,
                actor=current_call().caller.subject,
            )
        )
        token = JoinToken(doorway.token_address, self._roots.read_bytes(), invitation.secret)
        response = pb.InviteParticipantResponse(
            participant=wire.participant(invitation.view, self._clock()), token=token.text()
        )
        response.expire_time.FromDatetime(invitation.view.participant.invitation_ends_at)
        return response

    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> pb.EnrolResponse:
        """Open to everybody: the secret is the proof."""
        view, certificate = await self._deeds.finish(
            self._enrolment.enrol(
                request.secret, request.signing_request, address=current_call().caller.address
            )
        )
        return pb.EnrolResponse(
            participant=view.participant.name,
            certificate=certificate.certificate_pem,
            roots=self._roots.read_bytes(),
            trust_domain=self._trust_domain,
            address=self._doorway().address,
            datasets=[holding.dataset for holding in view.holdings],
        )

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Context
    ) -> pb.RenewCertificateResponse:
        """For who still has one."""
        certificate = await self._deeds.finish(
            self._enrolment.renew(current_call().caller, request.signing_request)
        )
        return pb.RenewCertificateResponse(
            certificate=certificate.certificate_pem, roots=self._roots.read_bytes()
        )

    async def DeclareHolding(
        self, request: pb.DeclareHoldingRequest, context: Context
    ) -> pb.DeclareHoldingResponse:
        """What the caller has."""
        stored = await self._deeds.finish(
            self._holdings.declare(
                current_call().caller,
                Declaration(
                    dataset=request.dataset,
                    schema_sha256=request.schema_sha256,
                    rows=request.rows,
                    class_counts=tuple(request.class_counts),
                    noised=request.noised,
                    provenance=request.provenance,
                ),
            )
        )
        return pb.DeclareHoldingResponse(holding=wire.holding(stored))

    async def Attend(
        self, request_iterator: AsyncIterator[pb.AttendRequest], context: Context
    ) -> AsyncIterator[pb.AttendResponse]:
        """Somebody else's work; only who may is decided here."""
        caller = current_call().caller
        named(caller)
        async for response in self._streams.attend(request_iterator, caller):
            yield response

    async def GetParticipant(
        self, request: pb.GetParticipantRequest, context: Context
    ) -> pb.GetParticipantResponse:
        """One participant."""
        view = await self._participants.get(request.name)
        return pb.GetParticipantResponse(participant=wire.participant(view, self._clock()))

    async def ListParticipants(
        self, request: pb.ListParticipantsRequest, context: Context
    ) -> pb.ListParticipantsResponse:
        """A page of participants, by name."""
        after = decode_token(request.page_token, "participants")
        size = page_size(request.page_size)
        found = await self._participants.list(
            after=after if isinstance(after, str) else "", limit=size + 1
        )
        more, now = len(found) > size, self._clock()
        return pb.ListParticipantsResponse(
            participants=[wire.participant(view, now) for view in found[:size]],
            next_page_token=(
                encode_token(found[size - 1].participant.name, "participants") if more else ""
            ),
        )

    async def RevokeParticipant(
        self, request: pb.RevokeParticipantRequest, context: Context
    ) -> pb.RevokeParticipantResponse:
        """For good."""
        view = await self._deeds.finish(
            self._participants.revoke(
                request.name, reason=request.reason, actor=current_call().caller.subject
            )
        )
        return pb.RevokeParticipantResponse(participant=wire.participant(view, self._clock()))
