"""Findings on their way to the database and the audit record."""

from __future__ import annotations

import json
import math

import pytest

from aegis_server.review.findings import (
    CORROBORATING,
    Finding,
    corroborating,
    decisive,
    encode,
    from_rows,
    rows,
)

FOUND = (
    Finding("outlier", "norm_z", 4.25, 4.0, 1.0625, "a sentence – with a dash"),
    Finding("golden-set", "harm", 0.1, 0.4, 0.25, "another"),
)


def test_evidence_reads_back_as_the_findings():
    """Nothing is lost between the measurement and the record."""
    assert from_rows(json.loads(encode(FOUND))) == FOUND
    assert from_rows(rows(FOUND)) == FOUND


def test_evidence_is_canonical():
    """Equal findings give equal bytes, whatever they were made of."""
    assert encode(FOUND) == encode(from_rows(json.loads(encode(FOUND))))


def test_number_that_is_not_finite_is_refused():
    """JSON has no NaN, and a verdict must not rest on one."""
    with pytest.raises(ValueError):
        encode([Finding("outlier", "norm_z", math.nan, 4.0, 0.0, "")])


def test_corroborating_measure_never_reaches_rejection():
    """Whatever its ratio, it ends at three quarters."""
    assert corroborating(1e9) == CORROBORATING
    assert corroborating(0.5) == CORROBORATING / 2
    assert corroborating(-3) == 0


def test_decisive_measure_is_its_ratio():
    """At its threshold it is exactly one."""
    assert decisive(1.0) == 1.0
    assert decisive(-1.0) == 0.0
    assert math.isfinite(decisive(math.inf))
