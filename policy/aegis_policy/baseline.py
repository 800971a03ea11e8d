"""The rules a fresh installation starts with."""

from __future__ import annotations

from pathlib import Path


def baseline_csv() -> str:
    """Returns `rules/baseline.csv`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "rules" / "baseline.csv"
    checkout = package.parent / "rules" / "baseline.csv"
    return (installed if installed.exists() else checkout).read_text("utf-8")
