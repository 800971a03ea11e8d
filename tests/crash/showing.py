"""The matrix as people read it: a line a point while it runs, a table a group at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.crash.history import Finding
from tests.crash.matrix import Outcome
from tests.crash.targets import VERBS

_VERB_WIDTH = max(len(verb) for verb in VERBS)


def line(outcome: Outcome, number: int, of: int) -> str:
    """One point: what was done, whether all stories agree, how it ended, how long it took."""
    told = f"{number:>4}/{of} {outcome.point.name:<48} {outcome.cell:<8} {outcome.state}"
    return "\n".join((f"{told:<84} {outcome.seconds:5.1f} s", *_sentences(outcome.findings)))


def tables(outcomes: Sequence[Outcome]) -> str:
    """A table a group: rows are verbs, columns are steps, cells are `ok` or what was found."""
    groups = dict.fromkeys(outcome.point.group for outcome in outcomes)
    return "\n\n".join(
        "\n".join(_table(group, [each for each in outcomes if each.point.group == group]))
        for group in groups
    )


def document(outcomes: Sequence[Outcome], also: Sequence[Finding], seed: int) -> dict[str, Any]:
    """The same for machines."""
    return {
        "seed": seed,
        "points": [
            {
                "point": outcome.point.name,
                "state": outcome.state,
                "seconds": round(outcome.seconds, 3),
                "findings": [_plain(finding) for finding in outcome.findings],
            }
            for outcome in outcomes
        ],
        "everything": [_plain(finding) for finding in also],
    }


def _table(group: str, outcomes: Sequence[Outcome]) -> Iterator[str]:
    steps = list(dict.fromkeys(outcome.point.step for outcome in outcomes))
    cells = {(outcome.point.verb, outcome.point.step): outcome.cell for outcome in outcomes}
    words = [step.split("-", 1) for step in steps]
    widths = [
        max(len(text) for text in (*column, *(cells.get((verb, step), "") for verb in VERBS)))
        for step, column in zip(steps, words, strict=True)
    ]
    for number, head in enumerate((group, "")):
        heads = (column[number] if number < len(column) else "" for column in words)
        yield _row(head, heads, widths)
    for verb in VERBS:
        row = [cells.get((verb, step), "") for step in steps]
        if any(row):
            yield _row(verb, row, widths)


def _row(head: str, cells: Iterable[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join((head.ljust(_VERB_WIDTH), *padded)).rstrip()


def _sentences(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"          {finding.kind}: {finding.request_id or 'nobody'}: {finding.sentence}"


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "kind": finding.kind,
        "request_id": finding.request_id,
        "sentence": finding.sentence,
    }
