"""Changes that wait for a second person, and what that person says.

A proposal holds its whole draft and the revision it was made from. Approving makes exactly that
the next revision, or nothing: once the rules have moved on it is outdated and has to be made anew,
because what its approver saw is not what would come of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from aegis.errors import NotFound, PermissionDenied
from aegis_server.policy import drafts
from aegis_server.policy.proposals import store
from aegis_server.policy.proposals.store import Proposal
from aegis_server.policy.wishes import Approval, Wish, entry_of
from aegis_server.policy.writing import Writer, already_decided


class Proposals:
    """Lists proposals and decides them."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._database = writer.database

    async def list(
        self, *, before: int | None, limit: int, pending_only: bool
    ) -> Sequence[Proposal]:
        """Returns proposals numbered below `before`, the newest first."""
        async with self._database.transaction() as connection:
            return await store.page(
                connection, before=before, limit=limit, pending_only=pending_only
            )

    async def get(self, proposal_id: str) -> Proposal:
        """Returns a proposal; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        async with self._database.transaction() as connection:
            proposal = await store.read(connection, proposal_id)
        if proposal is None:
            resource = f"/policy/proposals/{proposal_id}"
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no proposal {proposal_id}", resource=resource
            )
        return proposal

    async def approve(self, proposal_id: str, decider: str, note: str) -> Proposal:
        """Makes a proposal the next revision.

        Raises `PermissionDenied` (PROPOSAL_OWN), `FailedPrecondition` (PROPOSAL_DECIDED),
        `Aborted` (REVISION_CONFLICT) when it is outdated, and what `Writer.write` raises.
        """
        proposal = await self.get(proposal_id)
        await self._writer.permit(decider)
        if decider == proposal.proposer:
            raise PermissionDenied("PROPOSAL_OWN", "nobody approves their own proposal")
        if proposal.state in ("approved", "rejected"):
            raise already_decided(proposal.state)
        async with self._database.transaction() as connection:
            csv, model_conf = await store.draft(connection, proposal_id)
        wish = Wish(
            decider,
            proposal.reason,
            expected_revision=proposal.base_revision,
            details=proposal.details,
        )
        await self._writer.write(
            wish,
            lambda before: drafts.of_text(before, csv, model_conf),
            Approval(proposal, note),
        )
        return await self.get(proposal_id)

    async def reject(self, proposal_id: str, decider: str, note: str) -> Proposal:
        """Ends a proposal, also one's own; raises as `approve` does."""
        proposal = await self.get(proposal_id)
        may = await self._writer.permit(decider)
        wish = Wish(decider, proposal.reason, details=proposal.details)
        more = {"proposal": proposal_id, "proposer": proposal.proposer}
        async with self._database.transaction() as connection:
            settled = await store.settle(
                connection, proposal_id, state="rejected", decider=decider, at=self._writer.clock()
            )
            if settled:
                entry = entry_of(wish, "rejected", may, note=note, **more)
                await self._writer.audit.record_in(connection, entry)
        proposal = await self.get(proposal_id)
        if not settled:
            raise already_decided(proposal.state)
        return proposal
