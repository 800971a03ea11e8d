"""A report: the facts of a period, the verification of the copy they come from, the articles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path

from aegis.audit.findings import Finding, Result, Verdict
from aegis.audit.report.evidence import Material, Statement, state
from aegis.audit.report.facts import Facts, Period
from aegis.audit.report.frameworks import Article, Framework, framework
from aegis.audit.report.gathering import gather_copy

DISCLAIMER = (
    "This report is evidence, not a legal opinion. It states what the audit logs of one Aegis"
    " installation record, and names the articles those records speak to. Whether an obligation is"
    " met is for people to judge who know the organisation, its systems and its contracts."
)

# What each verdict means, in words nobody can overlook.
VERDICTS = {
    Verdict.GOOD: "The record verifies: every hash, signature and rule holds.",
    Verdict.ALTERED: "THE RECORD WAS ALTERED. Do not rely on this report.",
    Verdict.TRUNCATED: "RECORDS ARE MISSING AT THE END. Do not rely on this report.",
    Verdict.FORKED: "THE PAST WAS REWRITTEN. Do not rely on this report.",
    Verdict.SIGNATURE: "A SIGNATURE DOES NOT HOLD. Do not rely on this report.",
    Verdict.STALE: "NO RECENT CHECKPOINT. Records since the newest one may have been removed.",
    Verdict.RULE: "THE RECORD IS WHOLE, AND TELLS OF SOMETHING THAT MUST NOT HAPPEN.",
}


STATUSES = ("evidence", "in part", "none", "not covered")


@dataclass(frozen=True, slots=True)
class ArticleResult:
    """An article with what the records show of it; `status` is one word a reader can sort by.

    "evidence": each of its facts is in the period. "in part": some are. "none": none is.
    "not covered": Aegis has no fact for it.
    """

    article: Article
    statements: tuple[Statement, ...]

    @property
    def status(self) -> str:
        """How much there is."""
        if not self.article.facts:
            return "not covered"
        found = [statement.found for statement in self.statements]
        if all(found):
            return "evidence"
        return "in part" if any(found) else "none"


@dataclass(frozen=True, slots=True)
class FrameworkResult:
    """A framework with its articles answered."""

    framework: Framework
    articles: tuple[ArticleResult, ...]

    def count(self, status: str) -> int:
        """Returns how many articles have this status."""
        return sum(each.status == status for each in self.articles)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a renderer needs. `own_keys`: the keys did not come with the copy itself."""

    made_at: datetime
    facts: Facts
    verification: Result
    own_keys: bool
    frameworks: tuple[FrameworkResult, ...]

    @property
    def period(self) -> Period:
        """What the facts are of."""
        return self.facts.period

    @property
    def dates(self) -> str:
        """The period in words, to the day when it begins and ends with one."""
        start, end = self.period.start, self.period.end
        days = start.time() == end.time() == time.min
        form = "%Y-%m-%d" if days else "%Y-%m-%d %H:%M:%S"
        return f"{start:{form}} up to, not including, {end:{form}} (UTC)"

    @property
    def findings(self) -> tuple[tuple[Finding, int], ...]:
        """What the verification found, each kind once, with how often it did."""
        kinds: dict[tuple[object, ...], list[Finding]] = {}
        for each in self.verification.findings:
            kinds.setdefault((each.log_id, each.verdict, each.problem), []).append(each)
        return tuple((same[0], len(same)) for same in kinds.values())

    @property
    def alarm(self) -> tuple[str, ...]:
        """What has to be read before anything else; empty for a record that verifies."""
        if self.verification.verdict is Verdict.GOOD:
            return ()
        counted = sum(log.records for log in self.verification.logs)
        lines = [f"Counted are the {counted:,} records whose hashes hold: no evidence for now."]
        for each, times in self.findings[:10]:
            place = "" if each.index is None else f", record {each.index:,}"
            often = f" ({times:,} times)" if times > 1 else ""
            lines.append(f"{each.log_id}{place}: {each.problem}{often}")
        return tuple(lines)

    @property
    def headline(self) -> str:
        """What the verification found, in words."""
        return VERDICTS[self.verification.verdict]


def report_of(
    directory: Path,
    verification: Result,
    *,
    period: Period,
    frameworks: Sequence[str],
    made_at: datetime,
    own_keys: bool,
) -> Report:
    """Returns the report on a copy that was verified; KeyError for an unknown framework."""
    chosen = [framework(name) for name in frameworks]
    facts = gather_copy(directory, verification.logs, period)
    return assemble(facts, verification, chosen, made_at=made_at, own_keys=own_keys)


def assemble(
    facts: Facts,
    verification: Result,
    frameworks: Sequence[Framework],
    *,
    made_at: datetime,
    own_keys: bool,
) -> Report:
    """Returns the report on facts that were gathered."""
    material = Material(facts, verification)
    results = tuple(
        FrameworkResult(
            each,
            tuple(
                ArticleResult(article, tuple(state(fact, material) for fact in article.facts))
                for article in each.articles
            ),
        )
        for each in frameworks
    )
    return Report(made_at, facts, verification, own_keys, results)
