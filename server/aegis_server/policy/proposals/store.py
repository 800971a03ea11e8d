"""SQL of proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from psycopg.types.json import Jsonb

from aegis.serving.database import Connection

State: TypeAlias = Literal["pending", "approved", "rejected", "outdated"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that waits, or waited, for a second person. `digest` is its revision's.

    `differences` are text, line before and line after of each, with a last one that counts those
    left out. A pending one is "outdated" once the rules have moved on.
    """

    number: int
    proposal_id: str
    base_revision: int
    digest: bytes
    proposer: str
    reason: str
    details: Mapping[str, str]
    differences: Sequence[Sequence[str]] = field(repr=False)
    created_at: datetime
    state: State = "pending"
    decider: str = ""
    decided_at: datetime | None = None
    revision: int = 0


_COLUMNS = """
    number, proposal_id, base_revision, digest, proposer, reason, details, differences, created_at,
    case when state = 'pending' and base_revision <> (select revision from aegis.policy_head)
        then 'outdated' else state end as standing,
    coalesce(decider, ''), decided_at, coalesce(revision, 0)
"""


async def insert(connection: Connection, proposal: Proposal, csv: str, model_conf: str) -> None:
    """Stores a proposal with the whole of its draft."""
    await connection.execute(
        """
        insert into aegis.policy_proposal
            (proposal_id, base_revision, digest, csv, model_conf, proposer, reason, details,
             differences, created_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            proposal.proposal_id,
            proposal.base_revision,
            proposal.digest,
            csv,
            model_conf,
            proposal.proposer,
            proposal.reason,
            Jsonb(dict(proposal.details)),
            Jsonb([list(each) for each in proposal.differences]),
            proposal.created_at,
        ),
    )


async def read(connection: Connection, proposal_id: str) -> Proposal | None:
    """Returns a proposal."""
    cursor = await connection.execute(
        f"select {_COLUMNS} from aegis.policy_proposal where proposal_id = %s",  # noqa: S608
        (proposal_id,),
    )
    row = await cursor.fetchone()
    return None if row is None else _proposal(row)


async def draft(connection: Connection, proposal_id: str) -> tuple[str, str]:
    """Returns the rule file and the model of a proposal that there is."""
    cursor = await connection.execute(
        "select csv, model_conf from aegis.policy_proposal where proposal_id = %s", (proposal_id,)
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # proposals are never deleted
    return row[0], row[1]


async def page(
    connection: Connection, *, before: int | None, limit: int, pending_only: bool
) -> list[Proposal]:
    """Returns proposals numbered below `before`, the newest first."""
    cursor = await connection.execute(
        f"""
        select * from (select {_COLUMNS} from aegis.policy_proposal) as proposal
        where (%(before)s::bigint is null or number < %(before)s)
            and (standing = 'pending' or not %(pending_only)s)
        order by number desc limit %(limit)s
        """,  # noqa: S608
        {"before": before, "limit": limit, "pending_only": pending_only},
    )
    return [_proposal(row) for row in await cursor.fetchall()]


async def settle(
    connection: Connection,
    proposal_id: str,
    *,
    state: Literal["approved", "rejected"],
    decider: str,
    at: datetime,
    revision: int | None = None,
) -> bool:
    """Decides a proposal; returns False when somebody else was faster."""
    cursor = await connection.execute(
        """
        update aegis.policy_proposal
        set state = %s, decider = %s, decided_at = %s, revision = %s
        where proposal_id = %s and state = 'pending'
        """,
        (state, decider, at, revision, proposal_id),
    )
    return cursor.rowcount == 1


def _proposal(row: tuple[Any, ...]) -> Proposal:
    number, proposal_id, base_revision, digest, *rest = row
    return Proposal(number, str(proposal_id), base_revision, bytes(digest), *rest)
