"""The stories of policy/cases, told to a local decision point: it decides as the engine does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.replicas import Stand

from aegis.decisions import DecisionClient, LocalDecisionPoint
from aegis_policy.baseline import baseline_csv

CASES = sorted((Path(__file__).parents[3] / "policy" / "cases").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
async def test_stories(path: Path, tmp_path: Path):
    """Each is decided as it is told, by the rule it names: here, by a server, by the directory."""
    content = yaml.safe_load(path.read_text())
    bindings = content["bindings"]
    stand = Stand(
        tmp_path, baseline_csv() + "".join(f"g2, {who}, {role}\n" for who, role in bindings.items())
    )
    await stand.start()
    async with (
        stand.channel() as channel,
        DecisionClient(channel) as client,
        LocalDecisionPoint(channel, max_age_seconds=30) as point,
        asyncio.timeout(20),
    ):
        await point.ready()
        by_rules = [told(case, point.decide(**question(case))) for case in content["cases"]]
        answers = await asyncio.gather(*(client.check(**question(c)) for c in content["cases"]))
        by_server = [told(*each) for each in zip(content["cases"], answers, strict=True)]
        stand.rules.give({who: [role] for who, role in bindings.items()})
        await point.ready(at_least_revision=stand.rules.replace(baseline_csv()))
        by_directory = [told(case, point.decide(**question(case))) for case in content["cases"]]
    await stand.stop()
    expected = [(case["story"], case["expect"], case.get("by", "")) for case in content["cases"]]
    assert by_rules == expected
    assert by_server == expected
    assert by_directory == expected


def question(case: dict[str, Any]) -> dict[str, Any]:
    names = ("subject", "domain", "resource", "action", "attributes")
    return {name: case[name] for name in names if name in case}


def told(case: dict[str, Any], decision: Any) -> tuple[str, str, str]:
    return case["story"], "allow" if decision.allowed else "deny", decision.rule_id
