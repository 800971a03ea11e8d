"""What every command needs: a channel, an output form, and errors people can act on."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import grpc
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from aegis.bearer import FILE_VARIABLE, ApiKey
from aegis.channel import Bearer, Identity, Proof, connect, default_home
from aegis.cli import tokens
from aegis.errors import AegisError, from_rpc_error
from aegis.local.state import server_address, token_address

Result = TypeVar("Result")

out = Console()
err = Console(stderr=True)

# Calls of people: long enough for a cold database, short enough to notice.
SECONDS = 30.0

# Columns between two columns of a table, and the least that is left of one that may be folded.
_GAP = 2
_FOLDED = 20

# What to try next, by reason.
_HINTS = {
    "POLICY_DENIED": "ask `aegis policy check SUBJECT RESOURCE ACTION`, or change the rules with"
    " `aegis policy import FILE`",
    "POLICY_INVALID": "`aegis policy lint FILE` names the same places without a server",
    "POLICY_NOT_COMPILED": "ask one request at a time with `aegis policy check`",
    "ETAG_MISMATCH": "somebody else changed this line: look with `aegis policy rules`, then again",
    "REVISION_CONFLICT": "see what changed with `aegis policy diff`, then try again",
    "PROPOSAL_OWN": "somebody else has to approve it",
    "PROPOSAL_DECIDED": "see what became of it with `aegis policy proposals`",
    "PEER_UNIDENTIFIED": "use a certificate that `aegis up` made: --as admin",
    "SIGNING_KEY_UNUSABLE": "list the keys that count with `aegis keys list`",
    "REQUEST_EXPIRED": "sign again; a request lives for 60 seconds",
    "REPLAY_DETECTED": "sign again with the same request id: `--request-id`",
    "RESOURCE_NOT_FOUND": "see what there is: `list` here, `aegis execution state` for pauses",
    **dict.fromkeys(
        (
            "CREDENTIALS_MISSING",
            "CREDENTIAL_REVOKED",
            "REFRESH_TOKEN_REUSED",
            "TOKEN_EXPIRED",
            "TOKEN_INVALID",
        ),
        "log in again with `aegis login`, or use a certificate: --as admin",
    ),
    "LOGIN_FAILED": "forgotten? `aegis password forgot`, or `aegis login --oidc` once more",
    "IDENTITY_PROVIDER_UNAVAILABLE": "try again later, or use a certificate: --as admin",
    "SCOPE_INSUFFICIENT": "make a key with more scopes: `aegis api-keys create --scope`",
    "BOOTSTRAP_CLOSED": "ask an administrator for an account: `aegis users create`",
    "ONE_TIME_TOKEN_INVALID": "ask for another with `aegis password forgot`",
    "APPROVAL_OWN": "somebody else has to: `aegis action show ACTION` names the groups",
    "APPROVER_NOT_ELIGIBLE": "see who is needed: `aegis action show ACTION`",
    "APPROVALS_IMPOSSIBLE": "give more people the group's role, or have the policy ask for fewer",
    "EXECUTION_PAUSED": "see who paused it, and why: `aegis execution state`",
    **dict.fromkeys(
        ("BREAKER_OPEN", "BUDGET_EXHAUSTED", "STORM_ACTIVE", "TARGET_BUSY", "WINDOW_CLOSED"),
        "see what holds it back: `aegis execution state`",
    ),
    **dict.fromkeys(
        ("PLAN_DRIFT", "TARGET_CHANGED"),
        "the cluster has changed: plan again with `aegis action plan`",
    ),
    "TARGET_GONE": "check its name and namespace, or plan again with `aegis action plan`",
    "STATE_CONFLICT": "see how it stands with the `show` or `list` command beside this one",
    "ATTEMPTS_EXHAUSTED": "a person has to look; what was tried: `aegis action list --incident`",
    "BREAK_GLASS_UNREVIEWED": "two others have to answer for it: `aegis action review ACTION`",
    "DATA_DAMAGED": "bring back the object, or the key that wraps it, from a copy",
    "EVIDENCE_UNAVAILABLE": "whoever runs the server adds what is missing: docs/evidence.md",
    "STORAGE_FULL": "make room where the server keeps its blobs, then try again",
    "INVITATION_INVALID": "ask whoever invited you for another token",
    "ENROLMENT_UNAVAILABLE": "docs/participants.md says what the server needs for that",
    "DATASET_ROWS_INVALID": "correct that row, or the schema, and try again",
    "TRAINING_DATA_MISSING": "run more rounds with the review on, then train again",
    **dict.fromkeys(
        ("PARTICIPANT_REVOKED", "PARTICIPANT_UNKNOWN"),
        "ask whoever runs the control plane; a new name needs a new invitation",
    ),
    "PRIVACY_BUDGET_EXHAUSTED": "see what has spent it: `aegis privacy show DATASET`; or choose a"
    " smaller epsilon or fewer rounds",
    "CERTIFICATE_UNAVAILABLE": "`aegis privacy show DATASET` has the figure that holds",
    "SECOND_PERSON_NEEDED": "ask somebody else to run the same command",
    "UPDATE_BASE_MISMATCH": "train from the model the round starts from: `aegis model list`",
    "REVIEW_BUSY": "nothing is lost: see where it stands with `aegis update queue`",
    "PARTICIPANTS_MISSING": "see who is enrolled: `aegis participant list`",
}


class Output(StrEnum):
    """How a command answers."""

    table = "table"
    json = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="A table for people or JSON for programs.")
]


@dataclass(slots=True)
class Target:
    """Which control plane, and as whom; set once by the options before the command.

    Without a `name`, whoever is logged in on this machine, else `admin`.
    """

    home: Path
    name: str = "admin"
    address: str | None = None
    named: bool = True

    @property
    def roots(self) -> Path:
        """What the server must chain to."""
        return self.home / "pki" / "ca.crt"

    @property
    def key(self) -> ApiKey | None:
        """The API key of the environment, when commands are run with that."""
        return None if self.named else ApiKey.from_environment(self.roots)

    @property
    def by_session(self) -> bool:
        """True when commands are run as who is logged in."""
        return not self.named and tokens.read(self.home) is not None

    def door(self) -> str:
        """Returns where callers without a certificate are served; exits when that is unknown."""
        address = self.address or os.environ.get("AEGIS_ADDRESS") or token_address(self.home)
        if address is None:
            fail(
                f"no control plane for people is running in {self.home}",
                "start one with `aegis up`, or name its token port with --address",
            )
        if not self.roots.is_file():
            fail(f"{self.roots} is missing", "put the roots of the server's certificate there")
        return address

    def resolve(self) -> tuple[str, Identity]:
        """Returns address and identity; raises `typer.Exit` with advice when either is unknown."""
        address = self.address or os.environ.get("AEGIS_ADDRESS") or server_address(self.home)
        if address is None:
            fail(
                f"no control plane is running in {self.home}",
                "start one with `aegis up`, or name one with --address",
            )
        identity = Identity.of(self.name, self.home)
        for file in (identity.certificate, identity.key, identity.roots):
            if not file.is_file():
                fail(
                    f"there is no certificate for {self.name!r}: {file}", "see `aegis --help`, --as"
                )
        return address, identity


target = Target(default_home())


@asynccontextmanager
async def channel(*, retries: bool = True) -> AsyncIterator[grpc.aio.Channel]:
    """Opens the channel the options ask for."""
    proof: Proof
    if (key := target.key) is not None:
        address, proof = target.door(), key
    elif target.by_session:
        stored = await tokens.fresh(target.home, target.roots)
        address, proof = target.address or stored.address, Bearer(target.roots, stored.access_token)
    else:
        address, proof = target.resolve()
    try:
        opened = connect(address, proof, retries=retries)
    except (OSError, ValueError) as error:
        fail(str(error), f"check {FILE_VARIABLE}, or use a certificate: --as admin")
    async with opened:
        yield opened


@asynccontextmanager
async def anonymous_channel() -> AsyncIterator[grpc.aio.Channel]:
    """Opens a channel that proves nothing, to log in over; what was spent is never sent again."""
    async with connect(target.door(), Bearer(target.roots), retries=False) as opened:
        yield opened


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command to its end; a refusal becomes a message, a next step and exit code 1."""
    try:
        return asyncio.run(main)
    except grpc.aio.AioRpcError as error:
        refuse(from_rpc_error(error))
    except AegisError as error:
        refuse(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def refuse(error: AegisError) -> NoReturn:
    """Prints what was refused, by which check, which fields are to blame, and what to try."""
    # What the transport says has no reason of ours; its code tells more than that.
    reason = error.code.name if error.reason == "INTERNAL" else error.reason
    err.print(f"[bold red]{reason}[/] {escape(error.message)}", highlight=False)
    for violation in error.violations:
        if error.message == f"{violation.field}: {violation.description}":
            continue
        description = escape(violation.description)
        err.print(f"  [yellow]{escape(violation.field)}[/]: {description}", highlight=False)
    if error.retry_seconds is not None:
        err.print(f"  next: try again in {error.retry_seconds:.0f} s", highlight=False)
    elif error.reason in _HINTS:
        err.print(f"  next: {_HINTS[error.reason]}", highlight=False)
    elif error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        err.print("  next: `aegis status` shows which part is away", highlight=False)
    raise typer.Exit(1)


def fail(problem: str, next_step: str) -> NoReturn:
    """Prints a problem on this side of the wire and what to do about it."""
    err.print(f"[bold red]error[/] {escape(problem)}", highlight=False)
    err.print(f"  next: {escape(next_step)}", highlight=False)
    raise typer.Exit(2)


def show_json(value: Message | Sequence[Message] | dict[str, Any]) -> None:
    """Prints messages as ProtoJSON with their .proto field names."""
    plain: Any
    if isinstance(value, Message):
        plain = as_dict(value)
    elif isinstance(value, dict):
        plain = value
    else:
        plain = [as_dict(message) for message in value]
    typer.echo(json.dumps(plain, indent=2))


def as_dict(message: Message) -> dict[str, Any]:
    """Returns a message as plain values."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def new_table(title: str) -> Table:
    """Returns an empty table in the one style that everything of `aegis` is shown in."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
    )


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    folding: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Prints rows under their headings, or says that there are none.

    Cells are plain text, or `Text` with a style. Only the columns `folding` are ever broken over
    lines; in a terminal that is too narrow even so, the columns `spare` are left out one by one.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        out.print(f"{title}: none")
        return
    widths = {
        name: max(len(name), *(row[position].cell_len for row in cells))
        for position, name in enumerate(columns)
    }
    least = {
        name: min(width, _FOLDED) if name in folding else width for name, width in widths.items()
    }
    shown = list(columns)
    for name in spare:
        if not out.is_terminal or _width(least[name] for name in shown) <= out.width:
            break
        shown.remove(name)
    table = new_table(escape(title))
    for name in shown:
        table.add_column(name, overflow="fold", no_wrap=name not in folding)
    for row in cells:
        table.add_row(*(cell for name, cell in zip(columns, row, strict=True) if name in shown))
    # A file or a pipe is as wide as it has to be.
    paper = out if out.is_terminal else Console(width=_width(widths.values()))
    paper.print(table)
    if len(shown) < len(columns):
        missing = ", ".join(name for name in columns if name not in shown)
        out.print(f"[dim]no room for: {missing}; see --output json[/]", highlight=False)


def _cell(value: object) -> Text:
    return value if isinstance(value, Text) else Text(str(value))


def _width(columns: Iterable[int]) -> int:
    widths = list(columns)
    return sum(widths) + _GAP * (len(widths) - 1)


def name_of(enum: Any, value: int, prefix: str) -> str:
    """Returns an enum value's name as people write it, e.g. `completed`."""
    return str(enum.Name(value)).removeprefix(prefix).lower()


def when(message: Any, field: str) -> str:
    """Returns a time of a message without its year, UTC, or nothing; JSON has all of it."""
    if not message.HasField(field):
        return ""
    return f"{getattr(message, field).ToDatetime():%m-%d %H:%M:%S}"
