"""Writes the tables of refusals in docs/execution.md from the tests that show them.

A test says with `@pytest.mark.refuses(REASON, step=N)` what it shows (tests/refusing.py). Steps and
their reasons are listed here; gRPC codes come from errors.proto, and what each rpc may refuse with
from the comments of the other protos. `--check` writes nothing and fails when the page is not what
the tests say, a step or a reason has no test, or a test names a refusal nobody documents.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "execution.md"
ERRORS = ROOT / "protos/aegis/v1/errors.proto"
EXECUTOR = ROOT / "protos/aegis/executor/v1/executor.proto"
SERVER = ROOT / "protos/aegis/v1/execution.proto"

# What the executor checks, in this order.
STEPS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "the peer's certificate: one name, of our trust domain, on the list of callers",
        ("PEER_UNIDENTIFIED", "PEER_NOT_ALLOWED"),
    ),
    2: (
        "a deadline of at most 120 s (above 64 KiB gRPC itself says RESOURCE_EXHAUSTED)",
        ("DEADLINE_REQUIRED",),
    ),
    3: ("shape and type of the envelope", ("ENVELOPE_MALFORMED",)),
    4: ("key known, for this use, in its time, not revoked", ("SIGNING_KEY_UNUSABLE",)),
    5: ("signature over the bytes as they came", ("SIGNATURE_INVALID",)),
    6: ("only now parsed: no unknown field, every constraint", ("PAYLOAD_INVALID",)),
    7: (
        "control plane and cluster it is for; the key is the issuer's",
        ("AUDIENCE_MISMATCH", "SIGNER_PEER_MISMATCH"),
    ),
    8: ("age: a minute, and 5 s of skew", ("REQUEST_FROM_FUTURE", "REQUEST_EXPIRED")),
    9: (
        "the decision: signed, for this very request, subject, executor, cluster, in time",
        ("DECISION_INVALID", "DECISION_EXPIRED"),
    ),
    10: ("approvals: enough, of the right people, for this digest", ("APPROVALS_INSUFFICIENT",)),
    11: (
        "the executor's own limits",
        ("NAMESPACE_NOT_ALLOWED", "ACTION_NOT_ENABLED", "BOUNDS_EXCEEDED"),
    ),
    12: (
        "kill switch, clock, windows, storm mode, breakers",
        ("EXECUTION_PAUSED", "CLOCK_UNTRUSTED", "WINDOW_CLOSED", "STORM_ACTIVE", "BREAKER_OPEN"),
    ),
    13: (
        "in one transaction: epoch, nonce, request id, target's lock, budgets, audit record",
        (
            "FENCED",
            "REPLAY_DETECTED",
            "REQUEST_ID_REUSED",
            "TARGET_BUSY",
            "BUDGET_EXHAUSTED",
            "COOLING_DOWN",
            "ATTEMPTS_EXHAUSTED",
            "DATABASE_UNAVAILABLE",
        ),
    ),
    14: (
        "the live object",
        (
            "TARGET_GONE",
            "TARGET_CHANGED",
            "TARGET_PROTECTED",
            "TARGET_VETOED",
            "TARGET_UNSETTLED",
            "GITOPS_OWNED",
            "HPA_OWNED",
            "SINGLE_REPLICA",
            "PDB_EXHAUSTED",
            "BOUNDS_EXCEEDED",
        ),
    ),
    15: ("dry run: the difference is the planned one", ("PLAN_DRIFT",)),
    16: (
        "once more, just before the change: kill switch, clock, epoch, decision, keys, approvals",
        ("EXECUTION_PAUSED", "CLOCK_UNTRUSTED", "FENCED", "DECISION_EXPIRED"),
    ),
    17: (
        "the change itself, pinned to uid and resource version",
        (
            "TARGET_GONE",
            "TARGET_CHANGED",
            "PDB_EXHAUSTED",
            "CLUSTER_REFUSED",
            "CLUSTER_UNAVAILABLE",
        ),
    ),
}
# The executor answers these to what is no action.
_OTHERS_OF_EXECUTOR = {
    "RESOURCE_NOT_FOUND",
    "STATE_CONFLICT",
    "CHECKPOINT_INVALID",
    "AUDIT_UNAVAILABLE",
}

# Their tests are marked as well; the page is not about them.
_OTHER_ROOMS = {"objects", "training"}


@dataclass(frozen=True, slots=True, order=True)
class Shown:
    """A refusal that a test shows; step 0 is the server."""

    step: int
    reason: str
    test: str


@cache
def codes() -> dict[str, tuple[str, ...]]:
    """Returns the gRPC codes of every reason, from errors.proto."""
    found: dict[str, tuple[str, ...]] = {}
    comment: list[str] = []
    for line in ERRORS.read_text().splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment.append(text.removeprefix("//").strip())
            continue
        if value := re.match(r"ERROR_REASON_([A-Z0-9_]+) = \d+;", text):
            before = " ".join(comment).partition(":")[0]
            found[value[1]] = tuple(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", before))
        comment = []
    return found


def documented(proto: Path) -> set[str]:
    """Returns the reasons that the comments of a file's rpcs list."""
    found: set[str] = set()
    comment: list[str] = []
    for line in proto.read_text().splitlines():
        text = line.strip()
        if text.startswith("//"):
            comment.append(text)
            continue
        if text.startswith("rpc "):
            errors = " ".join(comment).partition("Errors")[2]
            found |= set(re.findall(r"\b[A-Z_]{3,}\b", errors)) & set(codes())
        comment = []
    return found


def shown(folder: Path) -> list[Shown]:
    """Returns what the marks of the tests below a folder say of actions and their executor."""
    found = []
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text()
        if "mark.refuses" in text and path.parent.name not in _OTHER_ROOMS:
            found += _of_file(path.relative_to(ROOT), ast.parse(text))
    return sorted(found)


def _of_file(path: Path, tree: ast.Module) -> Iterator[Shown]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in function.decorator_list:
            for call in ast.walk(decorator):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("mark.refuses"):
                    yield from _of_mark(call, f"{path}::{function.name}")


def _of_mark(call: ast.Call, test: str) -> Iterator[Shown]:
    step = next((ast.literal_eval(word.value) for word in call.keywords if word.arg == "step"), 0)
    for argument in call.args:
        yield Shown(step, ast.literal_eval(argument), test)


def problems(marks: list[Shown]) -> list[str]:
    """Returns what is missing, and what nobody documents."""
    wanted = {(step, reason) for step, (_, reasons) in STEPS.items() for reason in reasons}
    wanted |= {(0, reason) for reason in documented(SERVER)}
    having = {(mark.step, mark.reason) for mark in marks}
    found = [f"no test shows {_place(step)} {reason}" for step, reason in sorted(wanted - having)]
    found += [f"{_place(step)} {reason} is not listed" for step, reason in sorted(having - wanted)]
    listed = {reason for _, reasons in STEPS.values() for reason in reasons}
    missing = documented(EXECUTOR) - listed - _OTHERS_OF_EXECUTOR
    found += [f"executor.proto's {reason} has no step" for reason in sorted(missing)]
    found += [f"{reason} is no reason" for _, reason in sorted(wanted) if reason not in codes()]
    return found


def _place(step: int) -> str:
    return f"step {step}" if step else "the server's"


def table(marks: list[Shown], steps: bool) -> str:
    """Returns the executor's table, or the server's."""
    if steps:
        lines = ["| # | check | gRPC code | reason | test |", "|---|---|---|---|---|"]
        for step, (check, reasons) in STEPS.items():
            for reason in reasons:
                lines.append(f"| {step} | {check} | {_row(marks, step, reason)} |")
                check = "″"
    else:
        lines = ["| gRPC code | reason | test |", "|---|---|---|"]
        lines += [f"| {_row(marks, 0, reason)} |" for reason in sorted(documented(SERVER))]
    return "\n".join(lines)


def _row(marks: list[Shown], step: int, reason: str) -> str:
    tests = [mark.test for mark in marks if (mark.step, mark.reason) == (step, reason)]
    links = []
    for test in dict.fromkeys(tests):
        path, _, name = test.partition("::")
        links.append(f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})")
    return f"{', '.join(codes()[reason])} | `{reason}` | {'; '.join(links)}"


def rewritten(page: str, marks: list[Shown]) -> str:
    """Returns the page with its tables as the tests say."""
    for name, steps in (("order", True), ("server", False)):
        begin, end = f"<!-- {name}: scripts/verification_table.py -->", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{PAGE.name} lacks {begin} … {end}")
        page = f"{before}{begin}\n{table(marks, steps)}\n{end}{after}"
    return page


def main() -> int:
    """Writes the page, or with --check says whether it is right; 1 when something is wrong."""
    marks = shown(ROOT / "tests")
    found = problems(marks)
    page = PAGE.read_text()
    wanted = rewritten(page, marks)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted)
    elif page != wanted:
        found.append("docs/execution.md is old: run python scripts/verification_table.py")
    for problem in found:
        print(f"verification_table: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
