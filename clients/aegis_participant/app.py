"""The Flower ClientApp of a site: a message with the global model in, one with the update out.

What a site knows by itself comes from its `node_config`, what it is asked to do from the message:

    node_config  file, schema: the site's table, and the pinned schema to read it by; or, for a site
                 of a simulation, dataset, partition-id, num-partitions, dirichlet-alpha, seed
                 public-data: whether noise that others could predict, or none, is acceptable here
                 local-figures: the site's program asks for loss, accuracy and AUC; it keeps them
                 back where rows are a secret
    arrays       the global model
    config       the fields of `Task`, with dashes; server-round; simulation, seed and repeat

The reply carries the update as `arrays`, and the metrics `num-examples` and `steps`. Loss and
accuracy on the site's own rows are exact, so they are there in simulations only, and where the
site's own program asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from aegis_learning import npy, scores
from aegis_learning.datasets import Split, load, partition
from aegis_learning.models import family
from aegis_learning.parameters import Parameters, add, check
from aegis_participant import bounds
from aegis_participant.randomness import KeyStream
from aegis_participant.tables import read_rows, read_schema
from aegis_participant.training import Result, Task, train


@dataclass(frozen=True, slots=True)
class Order:
    """One round's work for one site, taken from a message."""

    task: Task
    base: Parameters
    round: int
    simulation: bool
    seed: int
    repeat: int

    @classmethod
    def of(cls, message: Message) -> Order:
        """Reads a TRAIN message; KeyError or ValueError when something is missing or wrong."""
        config: Any = message.content["config"]
        arrays: Any = message.content["arrays"]
        task = Task(
            model=family(str(config["model"]), int(config["features"]), int(config["classes"])),
            steps=int(config["steps"]),
            learning_rate=float(config["learning-rate"]),
            sample_rate=float(config["sample-rate"]),
            clip_norm=float(config["clip-norm"]),
            noise_multiplier=float(config["noise-multiplier"]),
            proximal=float(config.get("proximal", 0.0)),
            centre=tuple(float(value) for value in config.get("centre", ())),
        )
        if task.centre and len(task.centre) != task.model.features:
            raise ValueError(f"centre has {len(task.centre)} numbers, not {task.model.features}")
        if not np.isfinite(task.centre).all():
            raise ValueError("centre holds NaN or infinity")
        base = {name: npy.read(array.data) for name, array in arrays.items()}
        return cls(
            task=task,
            base=check(base, task.model.shapes),
            round=int(config["server-round"]),
            simulation=bool(config["simulation"]),
            seed=int(config["seed"]),
            repeat=int(config["repeat"]),
        )

    def stream(self, context: Context) -> KeyStream:
        """Returns the randomness for this order.

        Raises PermissionError when the order wants too little noise, or noise that others can
        predict, and the data of this site is not public.
        """
        public = context.node_config.get("public-data") is True
        task = self.task
        problem = bounds.problem(
            task.noise_multiplier, task.sample_rate, task.clip_norm, task.steps
        )
        if problem and not public:
            raise PermissionError(f"this site's data is not public: {problem}")
        if not self.simulation:
            return KeyStream.secret()
        if not public:
            raise PermissionError("this site's data is not public: no simulation with it")
        site = int(context.node_config.get("partition-id", context.node_id))
        return KeyStream.seeded(self.seed, self.round, self.repeat, site)


def rows_of(context: Context) -> Split:
    """Returns the rows that are at this site; a table is read again only when it has changed."""
    config = context.node_config
    if "file" in config:
        return read_rows(Path(str(config["file"])), Path(str(config["schema"])))
    sites = _partition(
        str(config["dataset"]),
        int(config["num-partitions"]),
        float(config["dirichlet-alpha"]),
        int(config["seed"]),
        config.get("shared-rows") is True,
    )
    return sites[int(config["partition-id"])]


def require_shape(task: Task, context: Context) -> None:
    """Raises ValueError when a task's model is not for rows of this site's schema.

    With fewer classes than there are, a row of one that is left out would fail the step in which it
    is drawn: the failure would say that there is such a row.
    """
    config = context.node_config
    schema = (
        read_schema(Path(str(config["schema"])))
        if "file" in config
        else load(str(config["dataset"])).schema
    )
    wanted = schema.width, len(schema.classes)
    asked = task.model.features, task.model.classes
    if asked != wanted:
        raise ValueError(f"the model has {asked} inputs and classes, the schema {wanted}")


@lru_cache(maxsize=4)
def _partition(
    dataset: str, sites: int, alpha: float, seed: int, shared: bool
) -> tuple[Split, ...]:
    return tuple(partition(load(dataset).shared, sites, alpha, seed, shared=shared))


def reply(message: Message, order: Order, result: Result, *, examples: int) -> Message:
    """Returns the answer that carries an update."""
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "num-examples": examples,
        "steps": result.steps,
    }
    if order.simulation:
        metrics |= {"loss": result.loss, "accuracy": result.accuracy}
    arrays = ArrayRecord(
        {name: Array(np.ascontiguousarray(values)) for name, values in result.delta.items()}
    )
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)


app = ClientApp()


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Trains on this site's rows from the global model, and answers with the update."""
    order = Order.of(message)
    require_shape(order.task, context)
    rows = rows_of(context)
    result = train(order.task, order.base, rows, order.stream(context))
    answer = reply(message, order, result, examples=len(rows))
    if context.node_config.get("local-figures") is True:
        answer.content.metric_records["metrics"].update(figures(order, result, rows))
    return answer


def figures(order: Order, result: Result, rows: Split) -> dict[str, float]:
    """Returns how the trained model does on the site's own rows: exact, so not for others.

    The AUC is there for two classes of which both occur.
    """
    found = {"loss": result.loss, "accuracy": result.accuracy}
    if order.task.model.classes == 2 and len(set(rows.y.tolist())) == 2:
        logits = order.task.model.logits(add(order.base, result.delta), rows.x)
        found["auc"] = scores.auc(logits[:, 1] - logits[:, 0], rows.y)
    return found
