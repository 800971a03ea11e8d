"""PrivacyService: wire to values and back."""

from __future__ import annotations

from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.v1 import participant_pb2, privacy_pb2, privacy_pb2_grpc
from aegis_learning import privacy
from aegis_server.privacy.book import ALL, Book, Limit, Mechanism, Standing
from aegis_server.privacy.books import Actor, Books
from aegis_server.privacy.store import StoredEntry


class PrivacyService(privacy_pb2_grpc.PrivacyServiceServicer):
    """Shows ledgers and changes what holds them."""

    def __init__(self, books: Books, deeds: Deeds) -> None:
        self._books = books
        self._deeds = deeds

    async def GetPrivacyLedger(
        self, request: privacy_pb2.GetPrivacyLedgerRequest, context: Context
    ) -> privacy_pb2.GetPrivacyLedgerResponse:
        """See the rpc's comment."""
        book, standings, entries = await self._books.look(
            request.dataset, participant=request.participant, history=request.history
        )
        return privacy_pb2.GetPrivacyLedgerResponse(
            accounts=[_account(standing) for standing in standings],
            entries=[_entry(book, entry) for entry in entries],
        )

    async def SetPrivacyLimit(
        self, request: privacy_pb2.SetPrivacyLimitRequest, context: Context
    ) -> privacy_pb2.SetPrivacyLimitResponse:
        """See the rpc's comment."""
        standing = await self._deeds.finish(
            self._books.limit(
                request.dataset,
                request.participant or ALL,
                Limit(request.epsilon_limit, request.delta),
                _actor(request.reason),
                expected=request.expected_limit,
            )
        )
        return privacy_pb2.SetPrivacyLimitResponse(account=_account(standing))

    async def ResetPrivacyLedger(
        self, request: privacy_pb2.ResetPrivacyLedgerRequest, context: Context
    ) -> privacy_pb2.ResetPrivacyLedgerResponse:
        """See the rpc's comment."""
        standing = await self._deeds.finish(
            self._books.reset(request.dataset, request.participant, _actor(request.reason))
        )
        return privacy_pb2.ResetPrivacyLedgerResponse(account=_account(standing))

    async def CertifyPrivacy(
        self, request: privacy_pb2.CertifyPrivacyRequest, context: Context
    ) -> privacy_pb2.CertifyPrivacyResponse:
        """See the rpc's comment."""
        certificate = await self._books.certify(request.dataset, request.participant)
        return privacy_pb2.CertifyPrivacyResponse(
            account=_account(certificate.standing),
            epsilon_prv=certificate.epsilon,
            seconds=certificate.seconds,
        )


def _actor(reason: str) -> Actor:
    call = current_call()
    return Actor(call.caller.subject, reason, call.grant)


def _account(standing: Standing) -> privacy_pb2.PrivacyAccount:
    return privacy_pb2.PrivacyAccount(
        dataset=standing.dataset,
        participant=standing.participant,
        epsilon_spent=standing.spent,
        epsilon_reserved=standing.reserved,
        epsilon_limit=standing.limit.epsilon,
        delta=standing.limit.delta,
        account=standing.account,
        entries=standing.entries,
    )


def _entry(book: Book, entry: StoredEntry) -> privacy_pb2.PrivacyEntry:
    mechanism = Mechanism(entry.noise_multiplier, entry.sample_rate, entry.steps, unit=entry.unit)
    message = privacy_pb2.PrivacyEntry(
        run_id=entry.run_id,
        participant=entry.participant,
        account=entry.account,
        mechanism=participant_pb2.Mechanism(
            noise_multiplier=entry.noise_multiplier,
            sample_rate=entry.sample_rate,
            steps=entry.steps,
            clip_norm=entry.clip_norm,
            delta=entry.delta,
        ),
        steps_reserved=entry.steps_reserved,
        settled=entry.settled,
        simulation=entry.simulation,
        model=entry.model,
        epsilon=privacy.epsilon_of(mechanism.cost(), book.limit(entry.participant).delta),
        unit=entry.unit,
    )
    message.create_time.FromDatetime(entry.created_at)
    if entry.settled_at is not None:
        message.settle_time.FromDatetime(entry.settled_at)
    return message
