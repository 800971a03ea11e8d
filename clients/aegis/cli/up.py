"""`aegis up` and `aegis status`: the whole control plane on one machine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.session import Output, OutputOption, err, fail, out, show_json, show_table, target
from aegis.local.health import PartHealth
from aegis.local.health import status as ask_parts
from aegis.local.parts import AlreadyRunning, Progress, Step
from aegis.local.process import PartFailed
from aegis.local.stack import Stack
from aegis.local.supervisor import cancelled_by_signals
from aegis.local.unprivileged import CannotRun

_STYLES = {
    Step.starting: "dim",
    Step.ready: "green",
    Step.missing: "yellow",
    Step.failed: "bold red",
    Step.stopping: "dim",
    Step.stopped: "dim",
}

# A question whose answer is yes on a fresh installation.
_CHECK = (
    "policy check automation:autopilot /clusters/sandbox/namespaces/shop/pods/web restart_pod"
    " --attr namespace=shop"
)


def up(
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of the server; port 0 takes any free one.")
    ] = "127.0.0.1:8443",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Processes of the server; AEGIS_WORKERS, or one."),
    ] = None,
) -> None:
    """Start the whole control plane on this machine, until Ctrl-C."""
    try:
        asyncio.run(_up(listen, workers))
    except AlreadyRunning as error:
        fail(str(error), "`aegis status` shows its parts; stop it with Ctrl-C where it runs")
    except CannotRun as error:
        fail(str(error), "see above")
    except PartFailed as error:
        err.print(f"[bold red]{error.name}[/] {error.problem}; its last words:", highlight=False)
        for line in error.log_tail:
            err.print(f"    {line}", highlight=False, markup=False)
        raise typer.Exit(1) from error


def status(output: OutputOption = Output.table) -> None:
    """Ask every part of the control plane how it is; exits 1 when one is not well."""
    parts = asyncio.run(ask_parts(target.home))
    healthy = bool(parts) and all(part.healthy for part in parts)
    if output is Output.json:
        show_json({"home": str(target.home), "healthy": healthy, "parts": [*map(_plain, parts)]})
    elif parts:
        show_table(
            f"Aegis in {target.home}",
            ["part", "health", "address", "pid"],
            [
                (
                    part.name,
                    Text(part.detail, style="green" if part.healthy else "red"),
                    part.address,
                    part.pid or "",
                )
                for part in parts
            ],
            folding=["health", "address"],
        )
    else:
        fail(f"nothing runs in {target.home}", "start it with `aegis up`")
    raise typer.Exit(0 if healthy else 1)


def show_progress(progress: Progress) -> None:
    """Prints one line about a part."""
    style = _STYLES[progress.step]
    out.print(
        f"  [{style}]{progress.step.value:9s}[/] {progress.part} [dim]{progress.detail}[/]",
        highlight=False,
    )


async def _up(listen: str, workers: int | None) -> None:
    with contextlib.suppress(asyncio.CancelledError), cancelled_by_signals():
        async with Stack(
            target.home, on_progress=show_progress, listen=listen, workers=workers
        ) as stack:
            _welcome(stack)
            await stack.wait()


def _welcome(stack: Stack) -> None:
    cluster = "the sandbox, not a cluster" if stack.sandboxed else str(stack.kubeconfig)
    home = "" if target.home == Stack().home else f"--home {target.home} "
    out.print(f"\n[bold green]Aegis is up[/] at {stack.address}, home {stack.home}")
    out.print(f"people at {stack.token_address}, by `aegis login`", highlight=False)
    out.print(f"executor at {stack.executor_address}, acting on {cluster}\n", highlight=False)
    out.print("Try, in another terminal:")
    commands = ["status", _CHECK, "train start"]
    if (stack.home / "blobs" / "bootstrap-token").exists():
        commands.append("bootstrap")
    for command in commands:
        out.print(f"  aegis {home}{command}", highlight=False, soft_wrap=True)
    out.print("\nCtrl-C stops everything.")


def _plain(part: PartHealth) -> dict[str, object]:
    return {
        "name": part.name,
        "healthy": part.healthy,
        "detail": part.detail,
        "address": part.address,
        "pid": part.pid,
    }
