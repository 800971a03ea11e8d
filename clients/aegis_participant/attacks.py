"""Dishonest sites for the attack lab: ClientApps that answer with a poisoned update.

They take part in simulations only, and only where a plan names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from aegis_learning.datasets import Split
from aegis_learning.parameters import Parameters, flatten, scale
from aegis_participant.app import Order, reply, rows_of
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Result, train

Kind: TypeAlias = Literal["sign-flip", "label-flip", "noise", "scale"]


def attacker(kind: Kind, factor: float) -> ClientApp:
    """Returns a site that misbehaves this way: `kind` and `factor` as in `aegis.v1.Attack`."""
    app = ClientApp()

    @app.train()
    def poison(message: Message, context: Context) -> Message:
        order, rows = Order.of(message), rows_of(context)
        stream = order.stream(context)
        taught = flip(rows) if kind == "label-flip" else rows
        result = train(order.task, order.base, taught, stream)
        return reply(message, order, twist(result, kind, factor, stream), examples=len(rows))

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
