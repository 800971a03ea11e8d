"""Approving and rejecting what waits for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.algorithms import PrivateKey
from aegis.envelope import MAX_SKEW
from aegis.errors import AlreadyExists, InvalidArgument, PermissionDenied
from aegis.serving.database import Connection
from aegis.trust import TrustBundle
from aegis.v1 import envelope_pb2
from aegis_server.execution import records
from aegis_server.execution.approvals import store
from aegis_server.execution.approvals.approvers import Approvers
from aegis_server.execution.approvals.attesting import (
    Place,
    attest,
    expires_at,
    invalid,
    open_detached,
)
from aegis_server.execution.approvals.counting import Given, Missing, askable, read_demands
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.ledger import Ledger, conflict
from aegis_server.execution.states import WAITING, S
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decisions

# The life of a decision, with which what was approved is sent.
_SENT_WITHIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Times:
    """The two clocks: how long an action waits for people, and then for its issuer."""

    approval: timedelta = timedelta(minutes=15)
    execution: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Vote:
    """What somebody says about an action they looked at."""

    action_id: str
    action_digest: bytes
    who: str
    reason: str
    group: str = ""
    detached: envelope_pb2.SignedEnvelope | None = None


class Approvals:
    """Takes people's words about actions."""

    def __init__(
        self,
        ledger: Ledger,
        decisions: Decisions,
        approvers: Approvers,
        *,
        trust: TrustBundle,
        key: PrivateKey,
        times: Times,
    ) -> None:
        self._ledger = ledger
        self._decisions = decisions
        self._approvers = approvers
        self._trust = trust
        self._key = key
        self._times = times

    async def approve(self, vote: Vote) -> StoredAction:
        """Stores an approval; the last one that was needed makes the action APPROVED.

        Raises what ApproveAction's comment lists, in that order.
        """
        # Who lost the role a moment ago no longer speaks for it.
        await self._decisions.refresh()
        async with self._ledger.transaction() as connection:
            action = await self._waiting(connection, vote, {S.STATE_PENDING_APPROVAL})
            now = self._ledger.clock()
            words = (await store.words_about(connection, [action.action_id]))[action.action_id]
            counting = await self.counting(words, now)
            open_now = askable(read_demands(action.steps), given_of(counting))
            place = await self._place(vote, open_now)
            # What ended, or was said in a role that is lost, may be said again.
            if any(each.approver == vote.who for each in counting):
                raise _repeated(vote.who)
            word = await self._word(action, vote, place, open_now, now)
            await store.replace(connection, word)
            await self._ledger.record(connection, records.said(action, word))
            if askable(read_demands(action.steps), given_of([*counting, word])):
                return action
            return await self._ledger.move(
                connection,
                action,
                S.STATE_APPROVED,
                actor=vote.who,
                message="to be signed again by its issuer",
                execute_expires_at=now + self._times.execution,
            )

    async def reject(self, vote: Vote) -> StoredAction:
        """Ends an action by one person's no; raises what RejectAction's comment lists."""
        await self._decisions.refresh()
        async with self._ledger.transaction() as connection:
            action = await self._waiting(connection, vote, WAITING)
            groups = [demand.group for demand in read_demands(action.steps)]
            speaks = await self._approvers.speaking((vote.who, each) for each in groups)
            group = next((each for each in groups if (vote.who, each) in speaks), "")
            if not group:
                raise _not_eligible(vote.who, groups[0] if groups else "")
            word = Word(
                action_id=action.action_id,
                approver=vote.who,
                kind="rejection",
                step=0,
                group_name=group,
                reason=vote.reason,
                detached=False,
                envelope=None,
                at=self._ledger.clock(),
            )
            if not await store.insert(connection, word):
                raise _repeated(vote.who)
            await self._ledger.record(connection, records.said(action, word))
            return await self._ledger.move(
                connection,
                action,
                S.STATE_REJECTED,
                actor=vote.who,
                message=f"{vote.who} said no: {vote.reason}",
            )

    async def counting(self, words: Sequence[Word], now: datetime) -> list[Word]:
        """Returns those of several words that are approvals which count now.

        They are not over, and by who may still speak for the group.
        """
        good = [
            each
            for each in words
            if each.kind == "approval"
            and each.envelope is not None
            and expires_at(each.envelope) > now
        ]
        speaks = await self._approvers.speaking((each.approver, each.group_name) for each in good)
        return [each for each in good if (each.approver, each.group_name) in speaks]

    async def _waiting(
        self, connection: Connection, vote: Vote, states: frozenset[int] | set[int]
    ) -> StoredAction:
        """Returns the action of a vote, locked; raises unless it waits for this person's word."""
        action = await self._ledger.require(connection, vote.action_id, lock=True)
        if action.state not in states or self._is_over(action):
            raise conflict(action)
        if action.action_digest != vote.action_digest:
            raise InvalidArgument(
                "DIGEST_MISMATCH", "what you looked at is not what this action would do"
            )
        if action.issuer == vote.who:
            raise PermissionDenied("APPROVAL_OWN", "nobody decides what they asked for")
        return action

    def _is_over(self, action: StoredAction) -> bool:
        # The sweep may not have come round yet.
        pending = action.state == S.STATE_PENDING_APPROVAL
        until = action.approval_expires_at if pending else action.execute_expires_at
        return until is not None and until <= self._ledger.clock()

    async def _place(self, vote: Vote, open_now: Sequence[Missing]) -> Place:
        """Returns what a vote is for: the first that needs somebody the voter can be."""
        wanted = [each.demand for each in open_now if vote.group in ("", each.demand.group)]
        speaks = await self._approvers.speaking((vote.who, each.group) for each in wanted)
        for demand in wanted:
            if (vote.who, demand.group) in speaks:
                return Place(demand.step, demand.group)
        first = wanted[0].group if wanted else vote.group
        raise _not_eligible(vote.who, first)

    async def _word(
        self,
        action: StoredAction,
        vote: Vote,
        place: Place,
        open_now: Sequence[Missing],
        now: datetime,
    ) -> Word:
        if vote.detached is not None:
            signed = open_detached(
                vote.detached, action, approver=vote.who, trust=self._trust, now=now
            )
            if not any(
                (each.demand.step, each.demand.group) == (signed.step, signed.group)
                for each in open_now
            ) or vote.group not in ("", signed.group):
                raise invalid("step", "nobody has to be approved for this step and group now")
            if not await self._approvers.speaking([(vote.who, signed.group)]):
                raise _not_eligible(vote.who, signed.group)
            place, envelope = Place(signed.step, signed.group), vote.detached
        else:
            _refuse_undetached(place, open_now)
            envelope = attest(
                action,
                approver=vote.who,
                place=place,
                reason=vote.reason,
                at=now,
                expires_at=self._attested_until(action, now),
                key=self._key,
            )
        return Word(
            action_id=action.action_id,
            approver=vote.who,
            kind="approval",
            step=place.step,
            group_name=place.group,
            reason=vote.reason,
            detached=vote.detached is not None,
            envelope=envelope.SerializeToString(),
            at=now,
        )

    def _attested_until(self, action: StoredAction, now: datetime) -> datetime:
        """Returns the latest time at which what is approved now may still be begun."""
        last = action.approval_expires_at or now
        return last + self._times.execution + _SENT_WITHIN + 2 * MAX_SKEW


def given_of(counting: Sequence[Word]) -> list[Given]:
    """Returns approvals that count as they are counted."""
    return [Given(each.approver, each.step, each.group_name, each.detached) for each in counting]


def _refuse_undetached(place: Place, open_now: Sequence[Missing]) -> None:
    here = [each for each in open_now if (each.demand.step, each.demand.group) == _pair(place)]
    if all(each.demand.detached for each in here):
        raise invalid("detached", f"{place.group} has to sign this with their own keys")


def _pair(place: Place) -> tuple[int, str]:
    return place.step, place.group


def _not_eligible(who: str, group: str) -> PermissionDenied:
    return PermissionDenied(
        "APPROVER_NOT_ELIGIBLE", f"{who} is not of {group}, who has to decide this", group=group
    )


def _repeated(who: str) -> AlreadyExists:
    return AlreadyExists("APPROVAL_REPEATED", f"{who} has spoken already")
