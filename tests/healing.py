"""A self-healing report for tests: three hours, two kinds of action."""

from __future__ import annotations

from aegis.v1 import execution_pb2
from tests.fake_execution import BORN


def healing_report() -> execution_pb2.GetHealingReportResponse:
    """Nine restarts, four scales, and what was refused."""
    kind = execution_pb2.GetHealingReportResponse
    found = kind(
        rows=[
            kind.Row(
                action="restart_pod",
                total=9,
                states={"VERIFIED": 6, "INEFFECTIVE": 1, "FAILED": 1, "REFUSED": 1},
            ),
            kind.Row(
                action="scale_deployment",
                total=4,
                states={"COMPENSATED": 1, "UNKNOWN": 1, "DENIED": 1, "EXPIRED": 1},
            ),
            kind.Row(
                total=13,
                states={
                    "VERIFIED": 6,
                    "INEFFECTIVE": 1,
                    "FAILED": 1,
                    "REFUSED": 1,
                    "COMPENSATED": 1,
                    "UNKNOWN": 1,
                    "DENIED": 1,
                    "EXPIRED": 1,
                },
            ),
        ],
        refusals=[
            kind.Refusals(reason="GITOPS_OWNED", count=1),
            kind.Refusals(reason="BUDGET_EXHAUSTED", count=4),
        ],
    )
    for row in (found.rows[0], found.rows[2]):
        row.time_to_heal_p50.seconds, row.time_to_heal_p95.seconds = 41, 123
    found.start_time.seconds, found.end_time.seconds = BORN, BORN + 3 * 3600
    for hour, (healed, failed, prevented) in enumerate([(1, 1, 0), (1, 2, 2), (4, 1, 0)]):
        bucket = found.buckets.add(healed=healed, failed=failed, prevented=prevented)
        bucket.start_time.seconds = BORN + hour * 3600
    return found
