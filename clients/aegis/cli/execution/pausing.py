"""`aegis execution pause` and `resume`: the kill switch."""

from __future__ import annotations

from typing import Annotated

import typer

from aegis.cli.action.calls import Stub, ask
from aegis.cli.durations import duration
from aegis.cli.execution.standing import pause_line, scope_of
from aegis.cli.session import SECONDS, Output, OutputOption, out, show_json
from aegis.v1 import execution_pb2

WhyOption = Annotated[str, typer.Option("--reason", help="Why; everybody who is refused reads it.")]


def pause(
    reason: WhyOption,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Only there.")] = "",
    action: Annotated[str, typer.Option(help="Only this verb, e.g. scale_deployment.")] = "",
    life: Annotated[str, typer.Option("--for", help="Ends by itself after, e.g. 30m.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Stop execution, everywhere or in one place, within a second.

    What is being written to the cluster is finished. Exits 0 when the pause is stored, 1 when the
    server refused.
    """
    request = execution_pb2.PauseExecutionRequest(
        scope=execution_pb2.PauseScope(namespace=namespace, action=action.replace("-", "_")),
        reason=reason,
    )
    if life:
        request.life.CopyFrom(duration(life, "--for"))

    async def call(stub: Stub) -> execution_pb2.PauseExecutionResponse:
        return await stub.PauseExecution(request, timeout=SECONDS)

    _tell(ask(call).pause, output)


def resume(
    pause_id: Annotated[
        str, typer.Argument(metavar="PAUSE", help="As `aegis execution state` shows it.")
    ],
    reason: WhyOption,
    output: OutputOption = Output.table,
) -> None:
    """End a pause; somebody else than the one whose action tripped it has to.

    Exits 0 when it has ended, 1 when the server refused.
    """
    request = execution_pb2.ResumeExecutionRequest(pause_id=pause_id, reason=reason)

    async def call(stub: Stub) -> execution_pb2.ResumeExecutionResponse:
        return await stub.ResumeExecution(request, timeout=SECONDS)

    ended = ask(call).pause
    if output is Output.json:
        show_json(ended)
    else:
        out.print(f"execution goes on: {scope_of(ended.scope)}", highlight=False, markup=False)


def _tell(made: execution_pb2.Pause, output: Output) -> None:
    if output is Output.json:
        show_json(made)
        return
    out.print(pause_line(made), soft_wrap=True)
    out.print(f"  next: aegis execution resume {made.pause_id}", highlight=False, soft_wrap=True)
