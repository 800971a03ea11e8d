"""`@pytest.mark.refuses`: which refusal a test shows, so that a table can be made of them.

    @pytest.mark.refuses("PLAN_DRIFT", step=15)   # of the executor's verification order
    @pytest.mark.refuses("APPROVAL_OWN")          # of the server's ExecutionService

A mark that is no longer true fails its test: the refusal has to happen while it runs, with the gRPC
code that errors.proto gives it. `scripts/verification_table.py` writes the table.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from scripts.verification_table import codes

from aegis.errors import AegisError

# What can carry a reason: errors, and the ends and gates that are answers instead of errors.
_CARRIERS = (
    ("aegis_executor.journal", "Ending"),
    ("aegis_executor.guards.gates", "Gate"),
    ("aegis_executor.catalogue.base", "Gate"),
)


@contextmanager
def _heard(carrier: type[Any], heard: set[tuple[str, str]]) -> Iterator[None]:
    original = carrier.__init__

    def listen(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        code = self.code.name if isinstance(self, AegisError) else ""
        heard.add((self.reason, code))

    carrier.__init__ = listen
    try:
        yield
    finally:
        carrier.__init__ = original


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Lets a test fail whose refusal did not happen."""
    marks = [set(mark.args) for mark in item.iter_markers("refuses")]
    if not marks:
        return (yield)
    heard: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        stack.enter_context(_heard(AegisError, heard))
        for module, name in _CARRIERS:
            if module in sys.modules and hasattr(sys.modules[module], name):
                stack.enter_context(_heard(getattr(sys.modules[module], name), heard))
        result = yield
    # One of the reasons for each mark: the cases of a parametrized test share them.
    for wanted in marks:
        assert wanted & {reason for reason, _ in heard}, f"{sorted(wanted)}: nobody was refused so"
    for reason, code in heard:
        if code and any(reason in wanted for wanted in marks):
            assert code in codes()[reason], f"{reason} came as {code}"
    return result
