"""`aegis standing`: what the review thinks of participants, and what that rests on."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.execution.bars import bar
from aegis.cli.review.calls import ask, pages, state_of
from aegis.cli.session import Output, OutputOption, name_of, out, show_json, show_table, when
from aegis.v1 import review_pb2, standing_pb2

_BAR = 20
# Below the first a quarantine is proposed.
_LOW, _NEW = 0.25, 0.5
_NAMES_MAX = 3


def list_(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
    output: OutputOption = Output.table,
) -> None:
    """List participants, the least trusted first."""
    request = standing_pb2.ListStandingsRequest()
    found = pages("ListStandings", request, "standings", limit)
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "standings",
        ["participant", "reputation", "", "judged", "rejected", "held", "drift", "like", "state"],
        [
            (
                each.participant,
                f"{each.reputation:.2f}",
                meter(each.reputation),
                each.judged,
                each.rejected,
                each.held,
                f"{each.drift:.1f}",
                _names(each.colludes_with),
                state_of(each.quarantine),
            )
            for each in found
        ],
        spare=["held", "drift", ""],
    )


def show(
    participant: Annotated[str, typer.Argument(help="As `aegis standing list` shows it.")],
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many updates.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """Show a participant's standing and its judged updates, newest first."""
    request = standing_pb2.GetStandingRequest(participant=participant)
    found = ask("GetStanding", request)
    if output is Output.json:
        show_json(found)
        return
    standing = found.standing
    head = Text.assemble(
        (standing.participant, "bold"),
        f" reputation {standing.reputation:.2f} ",
        meter(standing.reputation),
        f"\n{standing.judged} updates judged: {standing.accepted} accepted, {standing.rejected}"
        f" rejected, {standing.held} held; drift {standing.drift:.1f}",
    )
    if standing.colludes_with:
        head.append(
            f"\nits updates are suspiciously like those of {_names(standing.colludes_with)}"
        )
    if standing.HasField("quarantine"):
        head.append(f"\nquarantine {standing.quarantine.quarantine_id} ")
        head.append_text(state_of(standing.quarantine))
        head.append(f": {standing.quarantine.reason}")
    out.print(head, highlight=False, soft_wrap=True)
    show_table(
        "updates",
        ["run", "round", "update", "verdict", "score", "reputation", "judged"],
        [
            (
                each.run_id,
                each.round,
                each.update_id,
                name_of(review_pb2.Update.Verdict, each.verdict, "VERDICT_"),
                f"{each.score:.2f}",
                f"{each.reputation:.2f}",
                when(each, "time"),
            )
            for each in found.entries[:limit]
        ],
        spare=["judged", "run"],
    )


def meter(reputation: float) -> Text:
    """Returns a bar of a reputation: red where a quarantine is proposed, green from new on."""
    style = "red" if reputation < _LOW else "yellow" if reputation < _NEW else "green"
    return Text(bar(reputation, _BAR), style)


def _names(names: list[str]) -> str:
    more = f" +{len(names) - _NAMES_MAX}" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more
