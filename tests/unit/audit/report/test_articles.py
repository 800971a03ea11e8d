"""The frameworks' files: only facts that exist, and a plain word on what is not covered."""

from __future__ import annotations

import pytest
from tests.reporting import MAY, reported

from aegis.audit.findings import Verdict
from aegis.audit.report.evidence import FACTS
from aegis.audit.report.frameworks import KNOWN, framework
from aegis.audit.report.gathering import gather


@pytest.mark.parametrize("name", KNOWN)
def test_every_article_names_facts_that_exist_and_what_is_not_covered(name: str):
    """A fact nobody can show would be a promise; an article without limits would be a lie."""
    found = framework(name)
    assert found.name
    assert found.source
    assert found.scope
    numbers = [article.number for article in found.articles]
    assert len(numbers) == len(set(numbers)) > 0
    for article in found.articles:
        assert set(article.facts) <= FACTS, article.number
        assert len(article.not_covered) > 10, article.number
        assert bool(article.facts) == bool(article.shows), article.number
        assert len(article.title) < 80, article.number


def test_every_fact_speaks_to_some_article():
    """A fact no article names is dead."""
    named = {fact for name in KNOWN for each in framework(name).articles for fact in each.facts}
    assert named == FACTS


def test_unknown_framework_is_refused():
    """Also one that would lead out of the folder."""
    for name in ("soc2", "../articles/gdpr"):
        with pytest.raises(KeyError):
            framework(name)


def test_busy_month_has_evidence_wherever_there_is_a_fact():
    """Each fact is in the records, so each article with facts has all of its evidence."""
    for result in reported().frameworks:
        assert result.count("none") == result.count("in part") == 0
        assert result.count("evidence") > 0


def test_empty_period_has_no_evidence_but_the_log_itself():
    """An article is not evidenced because Aegis could have recorded something."""
    report = reported(gather([], MAY))
    found = {s.fact for f in report.frameworks for a in f.articles for s in a.statements if s.found}
    assert found == {"integrity", "witnesses"}


def test_record_that_does_not_verify_is_no_evidence_of_integrity():
    """The statement says so in the place where it is looked for."""
    report = reported(verdict=Verdict.ALTERED, frameworks=("hipaa",))
    audit_controls = next(
        each for each in report.frameworks[0].articles if each.article.number == "164.312(b)"
    )
    assert audit_controls.status == "in part"
    integrity = next(each for each in audit_controls.statements if each.fact == "integrity")
    assert not integrity.found
    assert "ALTERED" in integrity.text
