"""Dishonest sites for the attack lab: ClientApps that answer with a poisoned update.

They take part in simulations only, and only where a plan names them. Sites that attack in the same
way know of each other: they see what each of them would honestly have sent, and nothing of the
others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from aegis_learning.datasets import Split
from aegis_learning.parameters import Parameters, Shapes, digest, encode, flatten, scale, unflatten
from aegis_participant.app import Order, reply, rows_of
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Result, train

Kind: TypeAlias = Literal["sign-flip", "label-flip", "noise", "scale", "alie", "ipm"]


def attacker(kind: Kind, factor: float) -> ClientApp:
    """Returns a site that misbehaves this way: `kind` and `factor` as in `aegis.v1.Attack`.

    Its node config names the partitions of all that attack as it does: `colluders`, "3,4".
    """
    app = ClientApp()

    @app.train()
    def poison(message: Message, context: Context) -> Message:
        order, rows = Order.of(message), rows_of(context)
        if kind in ("alie", "ipm"):
            result = _COLLUSIONS.of(order, context).agreed(kind, factor, order, context)
        else:
            stream = order.stream(context)
            taught = flip(rows) if kind == "label-flip" else rows
            result = twist(train(order.task, order.base, taught, stream), kind, factor, stream)
        return reply(message, order, result, examples=len(rows))

    return app


def flip(rows: Split) -> Split:
    """Returns the rows with every label replaced by another class."""
    return Split(rows.x, rows.y.max() - rows.y)


def twist(result: Result, kind: Kind, factor: float, stream: KeyStream) -> Result:
    """Returns the result with its update poisoned; what it claims about itself stays."""
    if kind == "noise":
        noise = {name: stream.normal(values.shape) for name, values in result.delta.items()}
        length = np.linalg.norm(flatten(result.delta)) / np.sqrt(
            sum(n.size for n in noise.values())
        )
        delta: Parameters = {
            name: (factor * length * values).astype(np.float32) for name, values in noise.items()
        }
        return replace(result, delta=delta)
    return replace(result, delta=scale(result.delta, -factor if kind == "sign-flip" else factor))


def a_little_is_enough(honest: np.ndarray, z: float) -> np.ndarray:
    """Returns the mean of updates, shape (sites, numbers), moved by z deviations in each number.

    Baruch, Baruch, Goldberg 2019, "A Little Is Enough": inside the spread of the honest, so that
    robust rules keep it.
    """
    moved: np.ndarray = honest.mean(axis=0) - z * honest.std(axis=0)
    return moved


def inner_product(honest: np.ndarray, factor: float) -> np.ndarray:
    """Returns minus `factor` times the mean of updates, shape (sites, numbers).

    Xie, Koyejo, Gupta 2019, "Fall of Empires": with a small factor robust rules keep it, and what
    they make of the round points the wrong way.
    """
    turned: np.ndarray = -factor * honest.mean(axis=0)
    return turned


class _Collusion:
    """What the colluders of one round would honestly have sent, each computed once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._honest: dict[int, Result] = {}

    def agreed(self, kind: Kind, factor: float, order: Order, context: Context) -> Result:
        """Returns what all of them send."""
        sites = [int(each) for each in str(context.node_config["colluders"]).split(",")]
        with self._lock:
            for site in sites:
                if site not in self._honest:
                    self._honest[site] = _honest(order, context, site)
        own = self._honest[int(context.node_config["partition-id"])]
        vectors = np.stack([flatten(self._honest[site].delta) for site in sites])
        rule = a_little_is_enough if kind == "alie" else inner_product
        shapes: Shapes = {name: values.shape for name, values in own.delta.items()}
        vector = rule(vectors.astype(np.float64), factor).astype(np.float32)
        return replace(own, delta=unflatten(vector, shapes))


def _honest(order: Order, context: Context, site: int) -> Result:
    config = {**context.node_config, "partition-id": site}
    other = Context(context.run_id, context.node_id, config, context.state, context.run_config)
    return train(order.task, order.base, rows_of(other), order.stream(other))


class _Collusions:
    """The collusion of the newest round; colluders of one run are in one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[object, ...] = ()
        self._now = _Collusion()

    def of(self, order: Order, context: Context) -> _Collusion:
        config: Mapping[str, object] = context.node_config
        key = (
            *(order.seed, order.round, order.repeat, config["seed"], config["colluders"]),
            digest(encode(order.base)),
        )
        with self._lock:
            if key != self._key:
                self._key, self._now = key, _Collusion()
            return self._now


_COLLUSIONS = _Collusions()
