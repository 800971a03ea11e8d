"""Results of stories as JUnit's XML, which continuous integration shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from aegis_policy.cases import Result


def junit(results: Sequence[Result]) -> str:
    """Returns the report: a suite a file, a case a story."""
    root = ET.Element("testsuites", _counts(results))
    for file, group in groupby(results, key=lambda result: result.file):
        told = list(group)
        suite = ET.SubElement(root, "testsuite", {"name": file, **_counts(told)})
        for result in told:
            case = ET.SubElement(suite, "testcase", {"name": result.case.story, "classname": file})
            if not result.passed:
                failure = ET.SubElement(case, "failure", {"message": result.problem})
                failure.text = f"{result.case.subject} {result.case.action} {result.case.resource}"
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _counts(results: Sequence[Result]) -> dict[str, str]:
    failures = sum(not result.passed for result in results)
    return {"tests": str(len(results)), "failures": str(failures)}
