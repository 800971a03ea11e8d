"""The report for programs, in the form that docs/compliance.md describes."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from aegis.audit.findings import LogResult, Result
from aegis.audit.report.document import DISCLAIMER, ArticleResult, FrameworkResult, Report

REPORT_VERSION = 1


def render_json(report: Report) -> bytes:
    """Returns the whole report; equal reports are equal bytes."""
    return (json.dumps(as_dict(report), indent=2, ensure_ascii=False) + "\n").encode()


def as_dict(report: Report) -> dict[str, Any]:
    """Returns the report as plain values."""
    facts = _plain(asdict(report.facts))
    period = facts.pop("period")
    return {
        "report_version": REPORT_VERSION,
        "headline": report.headline,
        "disclaimer": DISCLAIMER,
        "made_at": report.made_at.isoformat(),
        "period": period,
        "verification": _verification(report.verification, own_keys=report.own_keys),
        "records": report.facts.records,
        "facts": facts,
        "frameworks": [_framework(each) for each in report.frameworks],
    }


def _verification(result: Result, *, own_keys: bool) -> dict[str, Any]:
    return {
        "verdict": result.verdict.name.lower(),
        "exit_status": int(result.verdict),
        "own_keys": own_keys,
        "logs": [_log(log) for log in result.logs],
        "findings": [
            {
                "verdict": finding.verdict.name.lower(),
                "log_id": finding.log_id,
                "index": finding.index,
                "problem": finding.problem,
            }
            for finding in result.findings
        ],
    }


def _log(log: LogResult) -> dict[str, Any]:
    newest = log.newest
    return {
        "log_id": log.log_id,
        "records": log.records,
        "root_hash": log.root.hex(),
        "chain_hash": log.chain_hash.hex(),
        "checkpoints": log.checkpoints,
        "newest_checkpoint": None
        if newest is None
        else {"tree_size": newest.size, "time": newest.time.isoformat()},
        "witnessed_size": dict(sorted(log.witnesses.items())),
    }


def _framework(result: FrameworkResult) -> dict[str, Any]:
    found = result.framework
    return {
        "id": found.id,
        "name": found.name,
        "source": found.source,
        "scope": found.scope,
        "articles": [_article(each) for each in result.articles],
    }


def _article(result: ArticleResult) -> dict[str, Any]:
    article = result.article
    return {
        "number": article.number,
        "title": article.title,
        "status": result.status,
        "shows": article.shows,
        "evidence": [asdict(statement) for statement in result.statements],
        "not_covered": article.not_covered,
    }


def _plain(value: Any) -> Any:
    """Returns times as ISO 8601 and spans as seconds, at any depth."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value
