"""What the rules were: `aegis policy history`, `diff`, `rollback`; and what they may become."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from aegis.cli.policy.calls import (
    LONG_SECONDS,
    ExpectedOption,
    LimitOption,
    ModelOption,
    ReasonOption,
    administer,
    draft_of,
    tell_change,
)
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    fail,
    name_of,
    out,
    show_json,
    show_table,
    when,
)
from aegis.v1 import policy_admin_pb2

ProposalArgument = Annotated[str, typer.Argument(help="As `aegis policy proposals` shows.")]


def history(limit: LimitOption = 20, output: OutputOption = Output.table) -> None:
    """List revisions, newest first."""
    request = policy_admin_pb2.ListRevisionsRequest(page_size=limit)
    found = administer(lambda stub: stub.ListRevisions(request, timeout=SECONDS)).revisions
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "revisions",
        ["revision", "time", "by", "rules", "model", "reason"],
        [
            (
                each.revision,
                when(each, "create_time"),
                each.actor,
                each.rule_count,
                "own" if each.model_digest else "",
                each.reason,
            )
            for each in found
        ],
        folding=["reason"],
        spare=["model", "time"],
    )


def diff(
    from_: Annotated[
        int | None, typer.Argument(metavar="[FROM]", min=0, help="A revision; 0 is the newest.")
    ] = None,
    to: Annotated[int | None, typer.Argument(min=0, help="Another one; else the newest.")] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A draft instead of TO.")
    ] = None,
    model: ModelOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Say in words what differs; without arguments what the newest revision changed."""
    if file is not None and to is not None:
        fail("both TO and --file are named", "compare with one of them")
    if file is not None:
        draft = draft_of(file, model)
        request = policy_admin_pb2.DiffPolicyRequest(from_revision=from_ or 0, draft=draft)
    else:
        before = _one_before() if from_ is None else from_
        request = policy_admin_pb2.DiffPolicyRequest(from_revision=before, to_revision=to or 0)
    answer = administer(lambda stub: stub.DiffPolicy(request, timeout=LONG_SECONDS))
    if output is Output.json:
        show_json(answer.differences)
    else:
        _tell(answer.differences)


def rollback(
    revision: Annotated[int, typer.Argument(min=1, help="Its rules become the newest.")],
    reason: ReasonOption,
    expected_revision: ExpectedOption = 0,
    output: OutputOption = Output.table,
) -> None:
    """Make the rules of an older revision the newest one."""
    request = policy_admin_pb2.RollbackPolicyRequest(
        to_revision=revision, reason=reason, expected_revision=expected_revision
    )
    tell_change(administer(lambda stub: stub.RollbackPolicy(request, timeout=LONG_SECONDS)), output)


def proposals(
    pending: Annotated[bool, typer.Option("--pending", help="Only undecided ones.")] = False,
    limit: LimitOption = 20,
    output: OutputOption = Output.table,
) -> None:
    """List changes that wait for a second person, and what became of others."""
    request = policy_admin_pb2.ListPolicyProposalsRequest(pending_only=pending, page_size=limit)
    found = administer(lambda stub: stub.ListPolicyProposals(request, timeout=SECONDS)).proposals
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "proposals",
        ["proposal", "state", "by", "time", "changes", "reason", "decided by"],
        [
            (
                each.proposal_id,
                _state(each),
                each.proposer,
                when(each, "create_time"),
                len(each.differences),
                each.reason,
                each.decider,
            )
            for each in found
        ],
        folding=["reason"],
        spare=["time", "decided by"],
    )
    for each in found:
        if each.state == policy_admin_pb2.PolicyProposal.STATE_PENDING:
            out.print(f"{each.proposal_id} from revision {each.base_revision}:", highlight=False)
            _tell(each.differences)


def approve(
    proposal: ProposalArgument,
    reason: Annotated[str, typer.Option(help="Why; kept with it.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Approve somebody else's change: it becomes the newest revision."""
    _decide(proposal, reason, output, approves=True)


def reject(
    proposal: ProposalArgument,
    reason: Annotated[str, typer.Option(help="Why; kept with it.")],
    output: OutputOption = Output.table,
) -> None:
    """Reject a change."""
    _decide(proposal, reason, output, approves=False)


def _decide(proposal_id: str, reason: str, output: Output, *, approves: bool) -> None:
    request = policy_admin_pb2.DecidePolicyProposalRequest(
        proposal_id=proposal_id, approve=approves, reason=reason
    )
    answer = administer(lambda stub: stub.DecidePolicyProposal(request, timeout=LONG_SECONDS))
    proposal = answer.proposal
    if output is Output.json:
        show_json(proposal)
        return
    became = f": revision {proposal.revision}" if proposal.revision else ""
    out.print(f"{proposal.proposal_id} {_state(proposal)}{became}", highlight=False)


def _state(proposal: policy_admin_pb2.PolicyProposal) -> str:
    return name_of(policy_admin_pb2.PolicyProposal.State, proposal.state, "STATE_")


def _tell(differences: Iterable[policy_admin_pb2.PolicyDifference]) -> None:
    told = False
    for each in differences:
        told = True
        sign = "~" if each.before and each.after else "-" if each.before else "+"
        out.print(f"  {sign} {each.text}", highlight=False, markup=False, soft_wrap=True)
    if not told:
        out.print("no difference")


def _one_before() -> int:
    """Returns the revision before the newest; the newest itself when it is the first."""
    request = policy_admin_pb2.ListRevisionsRequest(page_size=2)
    found = administer(lambda stub: stub.ListRevisions(request, timeout=SECONDS)).revisions
    return found[-1].revision if found else 0
