"""What the Grids of ours have in common: the identity of their run, and how a message is made."""

from __future__ import annotations

from aegis_server.training.flower import FlowerRun, Grid, Message, RecordDict, TaskIdentity

_SERVER_NODE = 0


class OwnGrid(Grid):
    """A Grid that is the only one of its process, because Flower's identities are the process'."""

    def __init__(self) -> None:
        self.set_run(FlowerRun.create_empty(run_id=1))

    def set_run(self, run: FlowerRun) -> None:
        """Takes on the identity every new `Message` of this process will carry."""
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
            run.run_id,
            _SERVER_NODE,
            0,
        )

    @property
    def run(self) -> FlowerRun:
        """The run this process works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Returns a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
