"""The command `aegis` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis.channel import default_home
from aegis.cli import (
    action,
    attack,
    audit,
    dataset,
    detector,
    execution,
    golden,
    keys,
    machines,
    measures,
    model,
    participant,
    people,
    pki,
    policy,
    privacy,
    review,
    secrets,
    simulate,
    train,
    update,
)
from aegis.cli.demo import demo
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    out,
    run,
    show_json,
    target,
)
from aegis.cli.up import status, up
from aegis.v1 import identity_pb2, identity_pb2_grpc

app = typer.Typer(
    name="aegis",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Aegis governs change: identity, policy, evidence, signed execution, audit.",
)
app.command()(up)
app.command()(status)
app.command()(demo)
app.command()(people.bootstrap)
app.command()(people.login)
app.command()(people.logout)
app.add_typer(people.password, name="password")
app.add_typer(people.profile, name="profile")
app.add_typer(people.users, name="users")
app.add_typer(machines.service_accounts, name="service-accounts")
app.add_typer(machines.api_keys, name="api-keys")
app.add_typer(keys.app, name="keys")
app.add_typer(pki.app, name="pki")
app.add_typer(secrets.app, name="secrets")
app.add_typer(policy.app, name="policy")
train.app.command()(measures.metrics)
app.add_typer(dataset.app, name="dataset")
app.add_typer(participant.app, name="participant")
train.app.command()(simulate.simulate)
app.add_typer(train.app, name="train")
app.add_typer(update.app, name="update")
app.add_typer(golden.app, name="golden")
app.add_typer(detector.app, name="detector")
app.add_typer(review.app, name="review")
app.add_typer(review.standing, name="standing")
app.add_typer(review.quarantine, name="quarantine")
app.add_typer(attack.app, name="attack")
app.add_typer(model.app, name="model")
app.add_typer(privacy.app, name="privacy")
app.add_typer(action.app, name="action")
app.add_typer(execution.app, name="execution")
app.add_typer(audit.app, name="audit")


@app.callback()
def options(
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Identity of `aegis up`: admin, autopilot …; else who is logged in, or admin.",
            show_default=False,
        ),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="AEGIS_HOME, else ~/.aegis.", show_default=False)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of the server; else the one `aegis up` started.")
    ] = None,
) -> None:
    """Set which control plane is meant, and as whom."""
    target.name, target.named = as_ or "admin", as_ is not None
    target.home = (home or default_home()).expanduser()
    target.address = address


@app.command()
def whoami(output: OutputOption = Output.table) -> None:
    """Show who the server takes you for."""
    me = run(_whoami())
    if output is Output.json:
        show_json(me)
    else:
        ends = f"{me.expire_time.ToDatetime():%H:%M} UTC" if me.HasField("expire_time") else ""
        until = f" until {ends}" if ends else ""
        known = f"known by {me.method}{until} {me.spiffe_id}".strip()
        out.print(f"[bold]{me.subject}[/] {known} {' '.join(me.roles)}", highlight=False)


async def _whoami() -> identity_pb2.WhoAmIResponse:
    async with channel() as opened:
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        return await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=SECONDS)


def main() -> None:
    """Entry point of the `aegis` script."""
    app()
