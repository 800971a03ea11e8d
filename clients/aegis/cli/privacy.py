"""`aegis privacy`: what training has cost the rows of a data set, and what it may cost."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.execution.bars import bar
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import privacy_pb2, privacy_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="What training costs the rows of a data set.")

Account = privacy_pb2.PrivacyAccount

EVERYBODY = "*"
_BAR = 20
# A process that loads PyTorch, and seconds of arithmetic.
_CERTIFICATE_SECONDS = 180.0

DatasetArgument = Annotated[str, typer.Argument(help="As `aegis dataset list` shows it.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the audit log.")]


@app.command()
def show(
    dataset: DatasetArgument,
    participant: Annotated[str, typer.Option(help="Only this one.")] = "",
    history: Annotated[bool, typer.Option(help="With entries of earlier accounts.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show who has spent how much of what, and which runs spent it."""
    found = run(_ledger(dataset, participant, history=history))
    if output is Output.json:
        show_json(found)
        return
    show_table(
        f"privacy of {dataset}",
        ["participant", "spent", "", "limit", "reserved", "delta", "account", "entries"],
        [_account(each) for each in found.accounts],
        spare=["entries", "account"],
    )
    show_table(
        "entries",
        ["run", "participant", "epsilon", "steps", "noise", "rate", "model", "began", "account"],
        [_entry(each) for each in found.entries],
        spare=["account", "rate", "noise", "began"],
    )


@app.command()
def limit(
    dataset: DatasetArgument,
    epsilon: Annotated[float, typer.Argument(help="The most it may cost.")],
    reason: ReasonOption,
    participant: Annotated[
        str, typer.Option(help="One participant; else all that have no limit of their own.")
    ] = EVERYBODY,
    delta: Annotated[float | None, typer.Option(help="As it is, if not said.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Set a limit. One below what is spent refuses every further run."""
    account = run(_limit(dataset, participant, epsilon, delta, reason))
    _tell(account, output, "the limit is set")


@app.command()
def reset(
    dataset: DatasetArgument,
    reason: ReasonOption,
    participant: Annotated[
        str, typer.Option(help='One participant, or "*" for everybody.')
    ] = EVERYBODY,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Begin a new account, because the rows are new ones. What was spent stays readable."""
    who = "everybody" if participant == EVERYBODY else participant
    question = f"Begin a new account of {dataset} for {who}? Only new rows have spent nothing."
    if not yes and not typer.confirm(question):
        fail("nothing was changed", "say --yes when the rows are new")
    account = run(_reset(dataset, participant, reason))
    _tell(account, output, f"account {account.account} has begun")


@app.command()
def certify(
    dataset: DatasetArgument,
    participant: Annotated[str, typer.Option(help="Whose rows.")] = EVERYBODY,
    output: OutputOption = Output.table,
) -> None:
    """Compute the tighter figure of what is spent; takes some seconds."""
    found = run(_certify(dataset, participant))
    if output is Output.json:
        show_json(found)
        return
    account = found.account
    out.print(
        f"[bold]{found.epsilon_prv:.4f}[/] by numerical composition, {account.epsilon_spent:.4f} by"
        f" Renyi accounting, at delta {account.delta:g}; {found.seconds:.1f} s",
        highlight=False,
    )


def meter(spent: float, most: float) -> Text:
    """Returns a bar of how much of a limit is spent: yellow from three quarters on, then red."""
    part = spent / most
    style = "green" if part < 0.75 else "yellow" if part < 1 else "red"
    return Text(bar(part, _BAR), style=style)


def _account(account: Account) -> list[object]:
    return [
        account.participant,
        f"{account.epsilon_spent:.3f}",
        meter(account.epsilon_spent, account.epsilon_limit),
        f"{account.epsilon_limit:g}",
        f"{account.epsilon_reserved:.3f}",
        f"{account.delta:g}",
        account.account,
        account.entries,
    ]


def _entry(entry: privacy_pb2.PrivacyEntry) -> list[object]:
    steps = f"{entry.mechanism.steps}"
    if not entry.settled:
        steps += " reserved"
    elif entry.steps_reserved > entry.mechanism.steps:
        steps += f" of {entry.steps_reserved}"
    return [
        entry.run_id,
        entry.participant,
        Text("simulated", style="dim") if entry.simulation else f"{entry.epsilon:.3f}",
        steps,
        f"{entry.mechanism.noise_multiplier:.4g}",
        f"{entry.mechanism.sample_rate:g}",
        entry.model,
        when(entry, "create_time"),
        entry.account,
    ]


def _tell(account: Account, output: Output, done: str) -> None:
    if output is Output.json:
        show_json(account)
        return
    words = Text(f"{done}: {account.dataset} at {account.participant} ")
    words += meter(account.epsilon_spent, account.epsilon_limit)
    words += f" {account.epsilon_spent:.3f} of {account.epsilon_limit:g} at {account.delta:g}"
    out.print(words, soft_wrap=True)


async def _ledger(
    dataset: str, participant: str, *, history: bool = False
) -> privacy_pb2.GetPrivacyLedgerResponse:
    request = privacy_pb2.GetPrivacyLedgerRequest(
        dataset=dataset, participant=participant, history=history
    )
    async with channel() as opened:
        stub = privacy_pb2_grpc.PrivacyServiceStub(opened)
        return await stub.GetPrivacyLedger(request, timeout=SECONDS)


async def _limit(
    dataset: str, participant: str, epsilon: float, delta: float | None, reason: str
) -> Account:
    # What is replaced is what was seen: somebody else's change in between is not overwritten.
    (seen,) = (await _ledger(dataset, participant)).accounts
    request = privacy_pb2.SetPrivacyLimitRequest(
        dataset=dataset,
        participant=participant,
        epsilon_limit=epsilon,
        delta=seen.delta if delta is None else delta,
        reason=reason,
        expected_limit=seen.epsilon_limit,
    )
    async with channel() as opened:
        stub = privacy_pb2_grpc.PrivacyServiceStub(opened)
        return (await stub.SetPrivacyLimit(request, timeout=SECONDS)).account


async def _reset(dataset: str, participant: str, reason: str) -> Account:
    request = privacy_pb2.ResetPrivacyLedgerRequest(
        dataset=dataset, participant=participant, reason=reason
    )
    async with channel() as opened:
        stub = privacy_pb2_grpc.PrivacyServiceStub(opened)
        return (await stub.ResetPrivacyLedger(request, timeout=SECONDS)).account


async def _certify(dataset: str, participant: str) -> privacy_pb2.CertifyPrivacyResponse:
    request = privacy_pb2.CertifyPrivacyRequest(dataset=dataset, participant=participant)
    async with channel() as opened:
        stub = privacy_pb2_grpc.PrivacyServiceStub(opened)
        return await stub.CertifyPrivacy(request, timeout=_CERTIFICATE_SECONDS)
