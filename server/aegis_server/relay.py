"""What brings tasks to sites and answers back, put together."""

from __future__ import annotations

from dataclasses import dataclass

from aegis.v1 import training_pb2
from aegis_learning.pinning import own_digest
from aegis_server.entrance import Part
from aegis_server.foundation import Base
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.training.attendance.streams import Streams
from aegis_server.training.tasks.answers import Answers
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Relay:
    """The tasks, and how servers hear of each other's changes."""

    base: Base
    tasks: Tasks
    news: News

    def streams(self, datasets: Datasets) -> Streams:
        """Returns who attends to participants, for runs about these data sets."""
        base = self.base

        async def schema_of(name: str) -> bytes:
            return (await datasets.schema(name)).sha256

        return Streams(
            base.database,
            base.blobs,
            Answers(base.database, base.blobs, clock=base.clock),
            self.news,
            clock=base.clock,
            schema_of=schema_of,
            own_app=training_pb2.App(name="aegis", sha256=own_digest()),
        )

    def parts(self) -> tuple[Part, ...]:
        """Returns what must run while we serve."""
        return self.news.run(), self.tasks.run()


def relay_of(base: Base) -> Relay:
    """Returns the relay of this process."""
    return Relay(
        base,
        Tasks(base.database, base.blobs, clock=base.clock),
        News(base.settings.database_url),
    )
