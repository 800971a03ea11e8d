"""What the commands of `aegis policy` share: calls, drafts, and how a change is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import grpc
import typer

from aegis.cli.session import Output, as_dict, channel, fail, out, run, show_json
from aegis.v1 import policy_admin_pb2, policy_admin_pb2_grpc, policy_pb2, policy_pb2_grpc

Answer = TypeVar("Answer")

# What looks at every rule, or at days of decisions, takes longer than a look-up.
LONG_SECONDS = 120.0
PAGE_SIZE = 1000

ReasonOption = Annotated[str, typer.Option(help="Why; kept with the revision.")]
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", exists=True, dir_okay=False, help="Casbin model.conf of these rules."),
]
ExpectedOption = Annotated[
    int,
    typer.Option(min=0, help="Refuse when this is not the current revision; 0 does not ask."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check only.")]
LimitOption = Annotated[int, typer.Option(min=1, max=PAGE_SIZE, help="How many at most.")]


class Changed(Protocol):
    """The answer to every change: a revision, or a proposal to make one."""

    @property
    def revision(self) -> policy_pb2.PolicyRevision:
        """The revision that it became."""

    @property
    def proposal_id(self) -> str:
        """Set where a second person has to approve."""


def ask(call: Callable[[policy_pb2_grpc.PolicyServiceStub], Awaitable[Answer]]) -> Answer:
    """Calls PolicyService; a refusal ends the command."""

    async def calling(opened: grpc.aio.Channel) -> Answer:
        return await call(policy_pb2_grpc.PolicyServiceStub(opened))

    return run(_over_channel(calling))


def administer(
    call: Callable[[policy_admin_pb2_grpc.PolicyAdminServiceStub], Awaitable[Answer]],
) -> Answer:
    """Calls PolicyAdminService; a refusal ends the command."""

    async def calling(opened: grpc.aio.Channel) -> Answer:
        return await call(policy_admin_pb2_grpc.PolicyAdminServiceStub(opened))

    return run(_over_channel(calling))


async def _over_channel(calling: Callable[[grpc.aio.Channel], Awaitable[Answer]]) -> Answer:
    async with channel() as opened:
        return await calling(opened)


def current(revision: int = 0) -> policy_pb2.GetPolicyResponse:
    """Returns the rules of a revision, by default the newest."""
    request = policy_pb2.GetPolicyRequest(revision=revision)
    return ask(lambda stub: stub.GetPolicy(request, timeout=LONG_SECONDS))


def text_of(file: Path) -> str:
    """Returns a file's text; exits when that is none."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}", "rules, models and stories are UTF-8 text")


def draft_of(file: Path, model: Path | None) -> policy_admin_pb2.PolicyDraft:
    """Returns rules that are not in force."""
    return policy_admin_pb2.PolicyDraft(
        csv=text_of(file), model_conf=text_of(model) if model else ""
    )


def tell_change(
    answer: Changed, output: Output, *, dry_run: bool = False, nothing: str = "all good"
) -> None:
    """Prints what became of a change."""
    revision = answer.revision
    if output is Output.json:
        show_json({**as_dict(revision), "proposal_id": answer.proposal_id})
    elif dry_run:
        out.print(f"{nothing}; nothing was stored", highlight=False, markup=False)
    elif answer.proposal_id:
        out.print(f"proposal {answer.proposal_id}: somebody else has to approve it")
        out.print(f"  next: aegis policy approve {answer.proposal_id}", highlight=False)
    else:
        out.print(f"revision {revision.revision}: {revision.rule_count} rules", highlight=False)


@contextmanager
def pycasbin_if_needed() -> Iterator[None]:
    """Exits with advice where rules of an admin's own model are tried without PyCasbin."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"a model of its own needs {error.name}", "pip install pycasbin")
