"""`python -m aegis_participant.worker`: one process that runs a pinned ClientApp for one run.

It imports what the application needs once, and answers frames until nobody asks any more. The
first frame names the application, each of the others is a message. What the application prints
goes to standard error, which is a file of the site's; outside, only the kind of an error is told.
"""

from __future__ import annotations

import importlib
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from aegis_participant import frames
from aegis_participant.flower import (
    ClientApp,
    Context,
    Message,
    Metadata,
    RecordDict,
    TaskIdentity,
    content_bytes,
    content_of,
)

_SERVER_NODE = 0
# The program has bounded it before; this is against a broken pipe's nonsense.
_CONTENT_MAX = 4 * 1024 * 1024 * 1024

_Frame = tuple[dict[str, Any], bytes]


def main() -> None:
    """Serves frames on standard input and output."""
    requests, answers = _streams()
    waiting: queue.SimpleQueue[_Frame] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    header, _ = waiting.get()
    try:
        worker = _Worker(_load(header))
    except Exception as error:
        traceback.print_exc()
        while waiting.get():
            frames.write(answers, {"error": type(error).__name__})
    while True:
        frames.write(answers, *worker.answer(*waiting.get()))


def _streams() -> tuple[BinaryIO, BinaryIO]:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # An application that prints or reads must not get into the frames.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


def _listen(requests: BinaryIO, waiting: queue.SimpleQueue[_Frame]) -> None:
    try:
        while True:
            waiting.put(frames.read(requests, content_max=_CONTENT_MAX))
    except (EOFError, OSError, ValueError):
        # The program is gone, in the middle of whatever the application does.
        os._exit(0)


def _load(header: dict[str, Any]) -> ClientApp:
    if header["path"]:
        sys.path.insert(0, header["path"])
    module, _, name = header["module"].partition(":")
    app: ClientApp = getattr(importlib.import_module(module), name)
    return app


class _Worker:
    """The application and the context of its one run."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app
        self._context: Context | None = None

    def answer(self, header: dict[str, Any], content: bytes) -> _Frame:
        """Returns the answer to a message, or the kind of what went wrong."""
        began = time.monotonic()
        try:
            reply = self._app(*self._message(header, content))
            if reply.has_error():
                return {"error": "ClientAppError"}, b""
            answer = content_bytes(reply.content)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            return {"error": type(error).__name__}, b""
        return {"seconds": time.monotonic() - began}, answer

    def _message(self, header: dict[str, Any], content: bytes) -> tuple[Message, Context]:
        run_id, node_id = int(header["run_id"]), int(header["node_id"])
        if self._context is None:
            # One run a process: Flower keeps this identity in a class.
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 0
            self._context = Context(run_id, node_id, {}, RecordDict(), header["run_config"])
        self._context.node_config = header["node_config"]
        metadata = Metadata(
            run_id=run_id,
            message_id=header["task_id"],
            src_node_id=_SERVER_NODE,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id=header["group_id"],
            created_at=time.time(),
            ttl=header["seconds"],
            message_type=header["message_type"],
        )
        # What a SuperNode does: the metadata is the server's, so that the reply goes there.
        message = Message(metadata=metadata, content=content_of(content))  # type: ignore[call-overload]
        return message, self._context


if __name__ == "__main__":
    main()
