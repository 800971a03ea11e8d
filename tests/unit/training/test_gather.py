"""LocalGrid.gather: enough answers and a little grace instead of everybody's."""

from __future__ import annotations

import time

from aegis_server.training.flower import ClientApp, Context, Message, RecordDict
from aegis_server.training.grid import LocalGrid


def _app(*, seconds: float = 0.0, fails: bool = False) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        time.sleep(seconds)
        if fails:
            raise RuntimeError("row 17 is 0.3")
        return Message(RecordDict(), reply_to=message)

    return app


def _gather(apps: list[ClientApp], **limits: float) -> list[int]:
    grid = LocalGrid({index + 1: (app, {}) for index, app in enumerate(apps)}, workers=len(apps))
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    replies = grid.gather(messages, **{"timeout": 20.0, "enough": 2, "grace": 0.1, **limits})  # type: ignore[arg-type]
    return [reply.metadata.src_node_id for reply in replies]


def test_enough_answers_end_the_waiting_after_the_grace() -> None:
    """Two of three are enough; the third would take ten seconds."""
    began = time.monotonic()
    assert _gather([_app(), _app(seconds=10), _app()]) == [1, 3]
    assert time.monotonic() - began < 5


def test_within_the_grace_the_last_one_counts() -> None:
    """It needs 0.2 s and has 5."""
    assert _gather([_app(), _app(seconds=0.2), _app()], grace=5) == [1, 2, 3]


def test_an_error_is_not_enough_of_anything() -> None:
    """One failed, so both others are waited for; the error is among the answers."""
    assert _gather([_app(fails=True), _app(seconds=0.3), _app()]) == [1, 2, 3]


def test_nobody_has_more_than_the_timeout() -> None:
    """Enough is out of reach."""
    assert _gather([_app(), _app(seconds=10)], timeout=0.5) == [1]
