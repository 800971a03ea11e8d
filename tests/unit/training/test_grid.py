"""The in-process Grid: order, failures and deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from aegis_server.training.flower import SITE_REFUSED
from aegis_server.training.grid import LocalGrid


def _site(deed: Callable[[Context], None]) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        deed(context)
        message.content["seen"] = MetricRecord({"node": context.node_id})
        return Message(message.content, reply_to=message)

    return app


def _messages(*nodes: int) -> list[Message]:
    shared = RecordDict()
    return [Message(shared, node, "train") for node in nodes]


def test_replies_come_in_the_order_of_nodes() -> None:
    """Whoever is fastest, aggregation sums in one order, so results repeat bit for bit."""
    grid = LocalGrid(
        {n: (_site(lambda c: time.sleep(0.03 * (4 - c.node_id))), {}) for n in (1, 2, 3)}, workers=3
    )
    replies = grid.send_and_receive(_messages(3, 1, 2), timeout=5)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]
    assert [reply.content["seen"]["node"] for reply in replies] == [1, 2, 3]


def test_site_that_raises_answers_with_its_kind_of_error_only() -> None:
    """What it said may quote its data."""

    def explode(context: Context) -> None:
        raise RuntimeError("patient 4711 has a negative age")

    grid = LocalGrid({1: (_site(explode), {}), 2: (_site(lambda c: None), {})})
    failed, fine = grid.send_and_receive(_messages(1, 2), timeout=5)
    assert (failed.error.code, failed.error.reason) == (2, "RuntimeError")
    assert fine.has_content()


def test_site_that_is_late_is_left_out_and_its_late_answer_goes_nowhere() -> None:
    """The deadline holds, and the next round is not answered with the last one's work."""
    release = threading.Event()
    slow = _site(lambda c: (release.wait(10), None)[1])
    grid = LocalGrid({1: (slow, {}), 2: (_site(lambda c: None), {})}, workers=2)
    began = time.monotonic()
    replies = list(grid.send_and_receive(_messages(1, 2), timeout=0.2))
    assert [reply.metadata.src_node_id for reply in replies] == [2]
    assert time.monotonic() - began < 2
    release.set()
    again = list(grid.send_and_receive(_messages(1, 2), timeout=5))
    assert [reply.metadata.src_node_id for reply in again] == [1, 2]


def test_round_waits_for_all_when_nobody_has_to_be_left_out() -> None:
    """Enough is where the grace begins, not where the round ends."""
    sites = {n: (_site(lambda c: time.sleep(0.05 * c.node_id)), {}) for n in (1, 2, 3)}
    replies = LocalGrid(sites, workers=3).gather(_messages(1, 2, 3), timeout=5, enough=1, grace=2)
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]


def test_straggler_is_left_out_once_enough_have_answered_and_the_grace_is_over() -> None:
    """And not before: those who fail are not enough."""
    release = threading.Event()

    def fail(context: Context) -> None:
        raise RuntimeError

    grid = LocalGrid(
        {
            1: (_site(fail), {}),
            2: (_site(lambda c: time.sleep(0.3)), {}),
            3: (_site(lambda c: (release.wait(20), None)[1]), {}),
        },
        workers=3,
    )
    began = time.monotonic()
    replies = grid.gather(_messages(1, 2, 3), timeout=15, enough=1, grace=0.1)
    assert 0.4 <= time.monotonic() - began < 10
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]
    release.set()


def test_deadline_holds_whatever_the_grace() -> None:
    """It is the plan's promise to whoever stops a run."""
    release = threading.Event()
    grid = LocalGrid({1: (_site(lambda c: (release.wait(20), None)[1]), {})})
    began = time.monotonic()
    assert grid.gather(_messages(1), timeout=0.2, enough=0, grace=60) == []
    assert time.monotonic() - began < 10
    release.set()


def test_site_that_will_not_says_so_apart_from_one_that_fails() -> None:
    """A refusal is asked for once."""

    def refuse(context: Context) -> None:
        raise PermissionError("not with these rows")

    (reply,) = LocalGrid({1: (_site(refuse), {})}).gather(
        _messages(1), timeout=5, enough=1, grace=0
    )
    assert (reply.error.code, reply.error.reason) == (SITE_REFUSED, "PermissionError")
