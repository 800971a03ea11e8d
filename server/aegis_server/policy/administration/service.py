"""PolicyAdminService: wire to values and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from aegis.errors import InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import policy_admin_pb2 as pb
from aegis.v1 import policy_admin_pb2_grpc
from aegis_policy import Engine, Line, PolicyError, to_csv
from aegis_policy.differences import Difference, differences
from aegis_policy.lint import Finding, lint_csv
from aegis_server.policy import drafts
from aegis_server.policy.administration.rules import Filter, page_of
from aegis_server.policy.changes import Create, Delete, LineChange, Replace, etag_of
from aegis_server.policy.decisionlog import DecisionLog
from aegis_server.policy.decisionlog.service import DecisionLogMethods
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.messages import revision_message
from aegis_server.policy.places import Placed
from aegis_server.policy.proposals.deciding import Proposals
from aegis_server.policy.proposals.store import Proposal
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.wishes import Wish

# An answer has to fit into a message.
_LISTED_MAX = 5_000
_PROPOSALS_MAX = 50
_SEVERITIES = {
    "error": pb.LintFinding.SEVERITY_ERROR,
    "warning": pb.LintFinding.SEVERITY_WARNING,
    "note": pb.LintFinding.SEVERITY_NOTE,
}
_STATES = {
    "pending": pb.PolicyProposal.STATE_PENDING,
    "approved": pb.PolicyProposal.STATE_APPROVED,
    "rejected": pb.PolicyProposal.STATE_REJECTED,
    "outdated": pb.PolicyProposal.STATE_OUTDATED,
}


class PolicyAdminService(DecisionLogMethods, policy_admin_pb2_grpc.PolicyAdminServiceServicer):
    """Changes rules, and shows what they are, were and would be."""

    def __init__(
        self,
        *,
        revisions: Revisions,
        proposals: Proposals,
        decision_log: DecisionLog,
        decisions: Decisions,
        deeds: Deeds,
        clock: Callable[[], datetime],
    ) -> None:
        self._revisions = revisions
        self._proposals = proposals
        self._decision_log = decision_log
        self._held_roles = decisions.held_roles
        self._current = lambda: decisions.snapshot.engine
        self._engine_of = _engine_of
        self._deeds = deeds
        self._clock = clock

    async def ListRules(
        self, request: pb.ListRulesRequest, context: Context
    ) -> pb.ListRulesResponse:
        """A page of lines, of the revision the listing began with."""
        wanted = Filter(
            request.subject, request.resource, request.action, request.domain, request.rule_id
        )
        wanted.check()
        number, after = _read_place(decode_token(request.page_token, "rules", wanted))
        policy = await self._revisions.read(number)
        size = page_size(request.page_size)
        found = await asyncio.to_thread(page_of, policy, wanted, after=after, limit=size + 1)
        token = ""
        if len(found) > size:
            position = f"{policy.revision.number} {found[size - 1].place}"
            token = encode_token(position, "rules", wanted)
        return pb.ListRulesResponse(
            rules=map(_rule, found[:size]),
            next_page_token=token,
            revision=policy.revision.number,
        )

    async def ApplyPolicyChanges(
        self, request: pb.ApplyPolicyChangesRequest, context: Context
    ) -> pb.ApplyPolicyChangesResponse:
        """Changes lines."""
        wish = Wish(
            current_call().caller.subject,
            request.reason,
            expected_revision=request.expected_revision,
            validate_only=request.validate_only,
        )
        revision, proposal_id = await self._deeds.finish(
            self._revisions.apply(wish, [_change(change) for change in request.changes])
        )
        return pb.ApplyPolicyChangesResponse(
            revision=revision_message(revision) if revision else None, proposal_id=proposal_id
        )

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: Context
    ) -> pb.ListRevisionsResponse:
        """A page of revisions."""
        before = _number(decode_token(request.page_token, "revisions"))
        size = page_size(request.page_size)
        found = await self._revisions.list(before=before, limit=size + 1)
        more = len(found) > size
        return pb.ListRevisionsResponse(
            revisions=map(revision_message, found[:size]),
            next_page_token=encode_token(found[size - 1].number, "revisions") if more else "",
        )

    async def DiffPolicy(
        self, request: pb.DiffPolicyRequest, context: Context
    ) -> pb.DiffPolicyResponse:
        """Differences in words."""
        before = await self._revisions.read(request.from_revision)
        if request.WhichOneof("to") == "draft":
            model = request.draft.model_conf
            lines = await self._revisions.lines_of(request.draft.csv, model)
        else:
            after = await self._revisions.read(request.to_revision)
            model, lines = after.revision.model_conf, after.lines
        found = list(await asyncio.to_thread(differences, before.lines, lines))
        if model != before.revision.model_conf:
            found.insert(0, Difference("the model changes", "", ""))
        shown = [_difference(each.text, each.before, each.after) for each in found[:_LISTED_MAX]]
        if len(found) > _LISTED_MAX:
            shown.append(_difference(f"and {len(found) - _LISTED_MAX} more", "", ""))
        return pb.DiffPolicyResponse(differences=shown)

    async def RollbackPolicy(
        self, request: pb.RollbackPolicyRequest, context: Context
    ) -> pb.RollbackPolicyResponse:
        """Makes old rules new."""
        wish = Wish(
            current_call().caller.subject,
            request.reason,
            expected_revision=request.expected_revision,
        )
        revision, proposal_id = await self._deeds.finish(
            self._revisions.roll_back(wish, request.to_revision)
        )
        return pb.RollbackPolicyResponse(
            revision=revision_message(revision) if revision else None, proposal_id=proposal_id
        )

    async def LintPolicy(
        self, request: pb.LintPolicyRequest, context: Context
    ) -> pb.LintPolicyResponse:
        """Findings about a revision or a draft."""
        if request.WhichOneof("what") == "draft":
            csv, model = request.draft.csv, request.draft.model_conf
        else:
            revision, csv = await self._revisions.get(request.revision)
            model = revision.model_conf
        found = await asyncio.to_thread(lint_csv, csv, model or None, now=self._clock())
        return pb.LintPolicyResponse(findings=map(_finding, found[:_LISTED_MAX]))

    async def AdoptBaseline(
        self, request: pb.AdoptBaselineRequest, context: Context
    ) -> pb.AdoptBaselineResponse:
        """Adds what is new in the baseline."""
        wish = Wish(
            current_call().caller.subject, request.reason, validate_only=request.validate_only
        )
        (revision, proposal_id), added, left_out = await self._deeds.finish(
            self._revisions.adopt_baseline(wish)
        )
        return pb.AdoptBaselineResponse(
            revision=revision_message(revision) if revision else None,
            proposal_id=proposal_id,
            added=_texts(added),
            left_out=_texts(left_out),
        )

    async def ListPolicyProposals(
        self, request: pb.ListPolicyProposalsRequest, context: Context
    ) -> pb.ListPolicyProposalsResponse:
        """A page of proposals."""
        query = ("proposals", request.pending_only)
        before = _number(decode_token(request.page_token, *query))
        size = min(page_size(request.page_size), _PROPOSALS_MAX)
        found = await self._proposals.list(
            before=before, limit=size + 1, pending_only=request.pending_only
        )
        more = len(found) > size
        return pb.ListPolicyProposalsResponse(
            proposals=map(_proposal, found[:size]),
            next_page_token=encode_token(found[size - 1].number, *query) if more else "",
        )

    async def DecidePolicyProposal(
        self, request: pb.DecidePolicyProposalRequest, context: Context
    ) -> pb.DecidePolicyProposalResponse:
        """Approves or rejects."""
        decide = self._proposals.approve if request.approve else self._proposals.reject
        proposal = await self._deeds.finish(
            decide(request.proposal_id, current_call().caller.subject, request.reason)
        )
        return pb.DecidePolicyProposalResponse(proposal=_proposal(proposal))


def _read_place(position: int | str | None) -> tuple[int, int]:
    """Returns revision and place of a listing's token: nothing, for its first page."""
    if position is None:
        return 0, 0
    number, _, place = str(position).partition(" ")
    if not (number.isascii() and number.isdigit() and place.isascii() and place.isdigit()):
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this page token is not from this query")
    return int(number), int(place)


def _number(position: int | str | None) -> int | None:
    return position if isinstance(position, int) else None


def _change(change: pb.PolicyChange) -> LineChange:
    match change.WhichOneof("change"):
        case "create":
            return Create(change.create.line, change.create.before_place)
        case "replace":
            return Replace(change.replace.place, change.replace.etag, change.replace.line)
        case _:
            return Delete(change.delete.place, change.delete.etag)


def _engine_of(draft: pb.PolicyDraft) -> Engine:
    try:
        return Engine.from_csv(draft.csv, draft.model_conf or None)
    except PolicyError as error:
        raise drafts.invalid(error, {}) from None


def _rule(placed: Placed) -> pb.PolicyRule:
    return pb.PolicyRule(
        place=placed.place,
        kind=placed.line.kind,
        fields=placed.line.fields,
        etag=etag_of(placed.line),
    )


def _texts(lines: Sequence[Line]) -> list[str]:
    return [to_csv([line]).removesuffix("\n") for line in lines]


def _difference(text: str, before: str, after: str) -> pb.PolicyDifference:
    return pb.PolicyDifference(text=text, before=before, after=after)


def _finding(finding: Finding) -> pb.LintFinding:
    return pb.LintFinding(
        severity=_SEVERITIES[finding.severity],
        check=finding.check,
        line=finding.line,
        column=finding.column,
        rule_id=finding.rule_id,
        text=finding.text,
    )


def _proposal(proposal: Proposal) -> pb.PolicyProposal:
    message = pb.PolicyProposal(
        proposal_id=proposal.proposal_id,
        state=_STATES[proposal.state],
        proposer=proposal.proposer,
        reason=proposal.reason,
        base_revision=proposal.base_revision,
        differences=[_difference(*each) for each in proposal.differences],
        decider=proposal.decider,
        revision=proposal.revision,
    )
    message.create_time.FromDatetime(proposal.created_at)
    if proposal.decided_at is not None:
        message.decide_time.FromDatetime(proposal.decided_at)
    return message
