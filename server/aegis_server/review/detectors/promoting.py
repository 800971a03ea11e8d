"""Which detector decides: how one comes to it, and how it is taken back.

One lock is held while any of them moves, so replicas wait for each other; and the database lets one
be champion whatever they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis_server.access import Permit
from aegis_server.review.detectors import store
from aegis_server.review.detectors.beside import DROP_MAX, Beside
from aegis_server.review.detectors.records import (
    BUILTIN,
    SERVER,
    conflict,
    entry,
    from_rows,
    missing,
    rates,
)
from aegis_server.review.detectors.store import StoredDetector
from aegis_server.review.people import require_two_people

FPR_MAX = 0.06


@dataclass(frozen=True, slots=True)
class Floor:
    """How much worse than it should be a detector may have been measured; 0 means the default.

    `fpr_max` is the share of honest updates it counts out, 0.06; `drop_max` how far what it finds
    at 5 % false positives, in the mean over attacks, is below what the champion finds, 0.05.
    """

    fpr_max: float = 0.0
    drop_max: float = 0.0


@dataclass(frozen=True, slots=True)
class Promoted:
    """A detector that decides now, and how many attacks it was compared under with the former."""

    stored: StoredDetector
    compared: int


_FLOOR = Floor()


class Promotion:
    """Moves detectors between the states in which they score."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def shadow(self, version: str, by: Call) -> StoredDetector:
        """Lets a detector score beside the champion, in place of the one that did.

        Raises `NotFound` or `FailedPrecondition` (STATE_CONFLICT).
        """
        async with self._database.transaction() as connection:
            wanted = await self._locked(connection, version)
            if wanted.state not in ("trained", "retired"):
                raise conflict(wanted)
            await _end_shadow(connection)
            await store.set_state(connection, version, "shadow")
            told = entry(
                wanted,
                actor=by.caller.subject,
                action="shadow",
                outcome="shadow",
                grant=by.grant,
            )
            await self._audit.record_in(connection, told)
            return await _require(connection, version)

    async def promote(
        self, version: str, reason: str, by: Call, *, permit: Permit, floor: Floor = _FLOOR
    ) -> Promoted:
        """Makes a detector the champion, unless it was measured to be below the `floor`.

        Raises `NotFound`, what `permit` raises, or `FailedPrecondition` (SECOND_PERSON_NEEDED,
        STATE_CONFLICT).
        """
        async with self._database.transaction() as connection:
            wanted = await _require(connection, version)
        by = by._replace(grant=await permit(_attributes(wanted, reason)))
        try:
            # Whoever chooses what counts nobody out, and puts it in place, has accepted everything.
            require_two_people(
                by.caller.subject, first=wanted.created_by, deed="train a detector and promote it"
            )
            _require_measured(wanted, floor.fpr_max or FPR_MAX)
            return await self._crown(version, reason, by, drop_max=floor.drop_max or DROP_MAX)
        except FailedPrecondition as refusal:
            told = entry(
                wanted,
                actor=by.caller.subject,
                action="promote",
                outcome="refused",
                refused=refusal.reason,
                grant=by.grant,
                details={"reason": reason},
            )
            await self._audit.record(told)
            raise

    async def roll_back(self, version: str, reason: str) -> StoredDetector | None:
        """Takes a champion back; returns who decides instead.

        None when it is not the champion any more, or the one that ships, to which there is no
        alternative.
        """
        async with self._database.transaction() as connection:
            champion = await self._locked(connection, version)
            if champion.state != "champion" or version == BUILTIN:
                return None
            heir = await _heir(connection, champion)
            await store.set_state(connection, version, "rolled_back", reason=reason)
            await store.crown(
                connection, heir.version, former=heir.former, by=SERVER, at=self._clock()
            )
            told = entry(
                champion,
                actor=SERVER,
                action="roll-back",
                outcome="rolled_back",
                details={"reason": reason, "champion": heir.version},
            )
            await self._audit.record_in(connection, told)
        return heir

    async def _crown(self, version: str, reason: str, by: Call, *, drop_max: float) -> Promoted:
        actor = by.caller.subject
        async with self._database.transaction() as connection:
            wanted = await self._locked(connection, version)
            if wanted.state not in ("trained", "shadow", "retired"):
                raise conflict(wanted)
            former = await store.in_state(connection, "champion")
            beside = _require_as_sharp(wanted, await _measured(connection, former), drop_max)
            if former is not None:
                await store.set_state(connection, former.version, "retired")
            await store.crown(
                connection,
                version,
                former=former.version if former else None,
                by=actor,
                at=self._clock(),
            )
            told = entry(
                wanted,
                actor=actor,
                action="promote",
                outcome="champion",
                grant=by.grant,
                details={
                    "reason": reason,
                    "former": former.version if former else "",
                    **_compared(beside),
                },
            )
            await self._audit.record_in(connection, told)
            return Promoted(await _require(connection, version), len(beside.rates))

    async def _locked(self, connection: Connection, version: str) -> StoredDetector:
        """Returns a detector once nobody else moves any."""
        await store.lock_places(connection)
        return await _require(connection, version)


def _attributes(wanted: StoredDetector, reason: str) -> dict[str, object]:
    """Returns what conditions see as ctx.NAME.

    A rate that is not known is left out: then an allow does not match, and a deny does.
    """
    tpr, fpr = rates(from_rows(wanted.measured))
    known = {name: rate for name, rate in (("tpr", tpr), ("fpr", fpr)) if not math.isnan(rate)}
    return {
        "version": wanted.version,
        "dataset": wanted.dataset,
        "target_fpr": wanted.target_fpr,
        "reason": reason,
        **known,
    }


def _require_measured(wanted: StoredDetector, fpr_max: float) -> None:
    _, fpr = rates(from_rows(wanted.measured))
    if fpr > fpr_max:
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"{wanted.version} was measured to count out {fpr:.1%} of honest updates;"
            f" {fpr_max:.1%} are allowed",
            resource=wanted.version,
            state=wanted.state.upper(),
        )


def _require_as_sharp(
    wanted: StoredDetector, other: StoredDetector | None, drop_max: float
) -> Beside:
    """Returns both beside each other; without one to compare with nothing speaks against it."""
    beside = Beside.of(from_rows(wanted.measured), from_rows(other.measured if other else ()))
    if other is not None and beside.worse_by(drop_max):
        one, known = beside.means
        when = "is in use" if other.state == "champion" else "was in use before"
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"{wanted.version} was measured to find {one:.1%} of poisoned updates at 5 % false"
            f" positives, {other.version}, which {when}, {known:.1%}:"
            f" {beside.told(drop=min(drop_max, DROP_MAX))}",
            resource=wanted.version,
            state=wanted.state.upper(),
            beside=other.version,
            tpr_at_5_fpr=f"{one:.4f}",
            tpr_at_5_fpr_beside=f"{known:.4f}",
        )
    return beside


def _compared(beside: Beside) -> dict[str, str]:
    """Returns what the record says of the comparison."""
    if not beside.rates:
        return {"attacks_compared": "0"}
    one, other = beside.means
    return {
        "attacks_compared": str(len(beside.rates)),
        "tpr_at_5_fpr": f"{one:.4f}",
        "tpr_at_5_fpr_former": f"{other:.4f}",
    }


async def _end_shadow(connection: Connection) -> None:
    before = await store.in_state(connection, "shadow")
    if before is not None:
        state = "trained" if before.promoted_at is None and before.version != BUILTIN else "retired"
        await store.set_state(connection, before.version, state)


async def _measured(
    connection: Connection, champion: StoredDetector | None
) -> StoredDetector | None:
    """Returns the nearest champion that was measured, from this one back; None without any.

    Who has the one that ships decide in between has nothing forgotten.
    """
    if champion is None or champion.measured:
        return champion
    return await _before(connection, champion, lambda each: bool(each.measured))


async def _heir(connection: Connection, champion: StoredDetector) -> StoredDetector:
    """Returns the nearest former champion that was not taken back itself; else what ships."""
    heir = await _before(connection, champion, lambda each: True)
    return heir or await _require(connection, BUILTIN)


async def _before(
    connection: Connection, champion: StoredDetector, wanted: Callable[[StoredDetector], bool]
) -> StoredDetector | None:
    """Returns the nearest wanted one of those that decided before and were not taken back."""
    seen, version = {champion.version}, champion.former
    while version is not None and version not in seen:
        seen.add(version)
        found = await _require(connection, version)
        if found.state in ("retired", "shadow") and wanted(found):
            return found
        version = found.former
    return None


async def _require(connection: Connection, version: str) -> StoredDetector:
    found = await store.find(connection, version)
    if found is None:
        raise missing(version)
    return found
