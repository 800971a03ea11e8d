"""The command `aegis demo`: starts everything in a temporary home and tells the story."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console

from aegis.channel import connect
from aegis.cli.demo.board import chapter, unrecorded
from aegis.cli.demo.cluster import SandboxCluster
from aegis.cli.demo.governing import Governing
from aegis.cli.demo.learning import Learning
from aegis.cli.demo.record import Record
from aegis.cli.demo.remediation import Remediation
from aegis.cli.demo.results import Results
from aegis.cli.demo.signing import Autopilot
from aegis.cli.planning import SEED_MAX, attacker_named
from aegis.cli.session import fail, new_table, refuse
from aegis.cli.up import show_progress
from aegis.errors import from_rpc_error
from aegis.local.process import PartFailed
from aegis.local.stack import Stack
from aegis.local.supervisor import cancelled_by_signals
from aegis.local.unprivileged import CannotRun
from aegis.plans import ATTACKS, Attacker
from aegis.trust import load_private_key
from aegis.v1 import (
    review_pb2_grpc,
    training_pb2_grpc,
)

# Faster than `aegis up`: a change is judged as soon as the sandbox can have followed it.
_EXECUTOR = {"AEGIS_EXECUTOR_STABILISE_SECONDS": "0.3", "AEGIS_EXECUTOR_LOOK_SECONDS": "0.2"}
# Wide enough for every line of the story, narrow enough to be read where a page is 830 pixels wide.
_PICTURE_COLUMNS = 80


def demo(
    seed: Annotated[
        int, typer.Option(min=0, max=SEED_MAX, help="Another seed, other numbers.")
    ] = 1,
    attack: Annotated[
        str, typer.Option(help=f"What the poisoner does: {', '.join(ATTACKS)}.")
    ] = "sign-flip",
    scale: Annotated[
        float | None, typer.Option(help="How hard; each attack has its default.", min=0.0)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was measured to this file.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Save the story, in short, as a picture.", dir_okay=False)
    ] = None,
) -> None:
    """Show two governed changes end to end, live, in a temporary home; about a minute."""
    attacker = attacker_named(attack, scale)
    console = Console(record=svg is not None, width=_PICTURE_COLUMNS if svg is not None else None)
    results = Results(seed=seed, attack=attacker.kind)
    began = time.monotonic()
    try:
        asyncio.run(_tell(results, attacker, console))
    except (PartFailed, CannotRun) as error:
        fail(str(error), "see the log lines above; `aegis up` starts the same parts one by one")
    except grpc.aio.AioRpcError as error:
        refuse(from_rpc_error(error))
    except asyncio.CancelledError:
        raise typer.Exit(130) from None
    results.seconds = time.monotonic() - began
    _summary(results, console)
    if svg is not None:
        picture = console.export_svg(title=f"aegis demo --seed {seed} --attack {attacker.kind}")
        # Whoever looks at it should not have to ask a foreign server for a font.
        svg.write_text(re.sub(r"@font-face {.*?}\s*", "", picture, flags=re.DOTALL))
    if json_file is not None:
        json_file.write_text(json.dumps(results.to_json(), indent=2) + "\n")
        console.print(f"written to {json_file}")
    raise typer.Exit(0 if results.succeeded else 1)


async def _tell(results: Results, attacker: Attacker, console: Console) -> None:
    with cancelled_by_signals(), tempfile.TemporaryDirectory(prefix="aegis-demo-") as folder:
        console.rule("[bold]Aegis governs change: a demonstration on this machine")
        # Nothing the user's own environment names is touched: the demo breaks and alters things.
        async with Stack(
            Path(folder), on_progress=show_progress, given={}, environment={"executor": _EXECUTOR}
        ) as stack:
            admin = connect(stack.address, stack.identity("admin"))
            channel = connect(stack.address, stack.identity("autopilot"), retries=False)
            async with admin, channel:
                key = load_private_key(stack.home / "pki" / "autopilot-signing.key")
                await _chapters(
                    results,
                    attacker,
                    console=console,
                    stack=stack,
                    admin=admin,
                    autopilot=Autopilot(channel, key),
                )


async def _chapters(
    results: Results,
    attacker: Attacker,
    *,
    console: Console,
    stack: Stack,
    admin: grpc.aio.Channel,
    autopilot: Autopilot,
) -> None:
    await Learning(
        training=training_pb2_grpc.TrainingServiceStub(admin),
        review=review_pb2_grpc.ReviewServiceStub(admin),
        console=console,
        results=results,
        attacker=attacker,
    ).tell()
    cluster = SandboxCluster(stack.home / "sandbox" / "control.json")
    await Remediation(autopilot=autopilot, cluster=cluster, console=console, results=results).tell()
    await Governing(
        admin=admin,
        autopilot=autopilot,
        address=stack.address,
        home=stack.home,
        cluster=cluster,
        console=console,
        results=results,
    ).tell()
    await Record(
        channel=admin,
        trust=stack.home / "pki" / "trust.json",
        console=console,
        results=results,
    ).tell()


def _summary(results: Results, console: Console) -> None:
    table = new_table(f"seed {results.seed}, attack {results.attack}")
    table.add_column("")
    table.add_column("what had to happen")
    table.add_column("what was seen")
    for check in results.checks:
        table.add_row("[green]✓[/]" if check.held else "[red]✗[/]", check.claim, check.seen)
    with unrecorded(console):
        chapter(console, "Summary")
        console.print(table)
    console.print()
    word = (
        "[bold green]all of it happened[/]" if results.succeeded else "[bold red]not all of it[/]"
    )
    console.print(f"{word}, in {results.seconds:.0f} seconds")
