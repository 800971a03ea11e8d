"""The report between its first lines and the articles: HTML and PDF show the same numbers."""

from __future__ import annotations

from aegis.audit.findings import LogResult
from aegis.audit.report.blocks import Section, Table, table
from aegis.audit.report.document import STATUSES, Report
from aegis.audit.report.facts import Facts, LogFacts
from aegis.audit.report.rooms import actions, decisions, identity, privacy, reviews


def sections(report: Report) -> tuple[Section, ...]:
    """Returns what is between the first lines and the articles."""
    facts = report.facts
    return (
        _verification(report),
        _record(facts),
        privacy(facts),
        reviews(facts),
        decisions(facts),
        actions(facts),
        identity(facts),
        _changes(facts),
    )


def overview(report: Report) -> Table:
    """Returns how many articles of each framework have evidence."""
    columns = "framework|evidence for each fact#|in part#|none in the period#|not covered#"
    return table(
        "Articles",
        columns,
        [
            (each.framework.name, *(each.count(status) for status in STATUSES))
            for each in report.frameworks
        ],
        "No framework.",
        "Evidence means that records speak to an article, never that the article is met.",
    )


def summary(report: Report) -> tuple[tuple[str, str], ...]:
    """Returns the numbers of the first page."""
    facts = report.facts
    return (
        ("records in the period", f"{facts.records:,}"),
        ("policy decisions", f"{facts.decisions.allowed + facts.decisions.denied:,}"),
        ("of them denials", f"{facts.decisions.denied:,}"),
        ("training runs", f"{len(facts.runs):,}"),
        ("updates rejected or held", f"{facts.reviews.rejected + facts.reviews.held:,}"),
        ("actions decided", f"{facts.actions.allowed + facts.actions.denied:,}"),
        ("changes of rules", f"{len(facts.policy_changes):,}"),
        ("refused logins", f"{facts.identity.failed_logins:,}"),
    )


def _verification(report: Report) -> Section:
    found = report.verification
    keys = (
        "They were checked with keys that were given separately."
        if report.own_keys
        else "The keys came with the copy itself: whoever made the copy could have made the keys."
        " To rule that out, name your own bundle with --trust."
    )
    return Section(
        "verification",
        "Verification of the logs",
        f"Every hash and signature of the copy was recomputed. {keys} Exit status"
        f" {int(found.verdict)} ({found.verdict.name.lower()}).",
        (
            table(
                "Findings",
                "log|record#|verdict|problem|times#",
                [
                    (each.log_id, each.index, each.verdict.name.lower(), each.problem, times)
                    for each, times in report.findings
                ],
                "Nothing.",
            ),
            table(
                "Logs",
                "log|records#|checkpoints#|newest checkpoint of#|cut at (UTC)|witnesses",
                [_log_row(log) for log in found.logs],
                "No log.",
            ),
            table(
                "What to compare with a checkpoint kept elsewhere",
                "log|root=",
                [(log.log_id, log.root.hex()) for log in found.logs],
                "No log.",
            ),
        ),
    )


def _log_row(log: LogResult) -> tuple[object, ...]:
    witnesses = ", ".join(f"{name} ({size:,})" for name, size in sorted(log.witnesses.items()))
    size = log.newest.size if log.newest else None
    cut = log.newest.time if log.newest else None
    return log.log_id, log.records, log.checkpoints, size, cut, witnesses or "none"


def _record(facts: Facts) -> Section:
    return Section(
        "record",
        "The record in this period",
        "Counts are of records with a time in the period; the last columns are of the whole log.",
        (
            table(
                "Coverage",
                "log|records#|checkpoints#|longest gap (h)|first record ever (UTC)|last (UTC)",
                [
                    (
                        log.log_id,
                        log.records,
                        log.checkpoints,
                        _gap(log),
                        log.first_record,
                        log.last_record,
                    )
                    for log in facts.logs
                ],
                "No log.",
                "The longest gap is between two checkpoints that follow each other; a log that is"
                " idle cuts one an hour.",
            ),
            table(
                "Records by kind",
                "log|kind|records#",
                [(log.log_id, each.name, each.count) for log in facts.logs for each in log.kinds],
                "No records in the period.",
            ),
            table(
                "Checkpoints of the other log, noted in a record",
                "noted|records#",
                [("in order", facts.peers.recorded), ("going back", facts.peers.rolled_back)],
                "None.",
                "One that goes back means that the other log has lost records it had signed.",
            ),
        ),
    )


def _gap(log: LogFacts) -> str:
    if log.longest_gap is None:
        return "–"
    seconds = int(log.longest_gap.total_seconds())
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _changes(facts: Facts) -> Section:
    return Section(
        "changes",
        "Changes of rules and keys, erasures",
        "Why somebody changed a rule or erased something may be free text, which this report"
        " leaves out.",
        (
            table(
                "Rules",
                "time (UTC)|by|outcome|revision#|lines#|digest begins=",
                [
                    (
                        each.time,
                        each.actor,
                        each.outcome,
                        each.revision or "–",
                        each.lines or "–",
                        each.digest[:16] or "–",
                    )
                    for each in facts.policy_changes
                ],
                "None in the period.",
            ),
            table(
                "Signing keys and trust bundle",
                "time (UTC)|by|change|key|outcome",
                [
                    (each.time, each.actor, each.action, each.key, each.outcome)
                    for each in facts.key_changes
                ],
                "None in the period.",
            ),
            table(
                "Erasures beside records",
                "time (UTC)|by|record#|what",
                [(each.time, each.actor, each.record, each.names) for each in facts.erasures],
                "None in the period.",
            ),
        ),
    )
